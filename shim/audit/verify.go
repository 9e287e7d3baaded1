package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxFindings bounds a report: of a log that is all wrong, the first are enough.
const maxFindings = 100

// Place is where a record stands in the chain: its number and its hash.
type Place struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// Finding is something that a log says about itself.
type Finding struct {
	File string `json:"file"`
	// Line counts from 1; 0: the file as a whole.
	Line int    `json:"line,omitempty"`
	What string `json:"what"`
}

func (f Finding) String() string {
	if f.Line == 0 {
		return f.File + ": " + f.What
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.What)
}

// Report is what Verify found.
type Report struct {
	Files   int    `json:"files"`
	Records uint64 `json:"records"`
	// Oldest and Newest are the first and the last record.
	Oldest Place     `json:"oldest"`
	Newest Place     `json:"newest"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	// Problems mean that the log is not as it was written. More counts those
	// beyond the first.
	Problems []Finding `json:"problems"`
	More     int       `json:"more,omitempty"`
	// Losses are records that could not be written, and said so.
	Losses []Finding `json:"losses"`
}

// Intact reports whether the log is as it was written.
func (r *Report) Intact() bool { return len(r.Problems) == 0 }

func (r *Report) problem(file string, line int, format string, args ...any) {
	if len(r.Problems) >= maxFindings {
		r.More++
		return
	}
	r.Problems = append(r.Problems, Finding{file, line, fmt.Sprintf(format, args...)})
}

func (r *Report) loss(file string, line int, format string, args ...any) {
	if len(r.Losses) < maxFindings {
		r.Losses = append(r.Losses, Finding{file, line, fmt.Sprintf(format, args...)})
	}
}

// VerifyOptions are for a log that is not in its place, and for more certainty.
type VerifyOptions struct {
	// Expect is the place of a record that was kept elsewhere. It must be in the
	// log. With it, a copy without a head can be verified.
	Expect *Place
}

// Verify reads the log in dir and says whether it is as it was written. It may
// run while the log is written to; what comes after its start is not looked at.
func Verify(dir string, o VerifyOptions) (*Report, error) {
	s, err := takeSnapshot(dir)
	if err != nil {
		return nil, err
	}
	defer s.close()
	v := &verifier{
		Report: &Report{Problems: []Finding{}, Losses: []Finding{}},
		at:     start, head: s.head, expect: o.Expect, pruned: map[place]bool{},
	}
	for i, f := range s.files {
		if err := v.file(f, i == len(s.files)-1); err != nil {
			return nil, err
		}
	}
	v.finish(s)
	return v.Report, nil
}

var errNoHead = errors.New("without this file nobody can tell whether the last lines are missing")

// snapshot is a log as it was at one moment: how far its files went.
type snapshot struct {
	dir     string
	files   []*snapshotFile
	head    head
	headErr error
}

type snapshotFile struct {
	*os.File
	name string
	size int64
	// first is the number of the first record, which orders the files: names can
	// be changed.
	first uint64
}

// takeSnapshot opens all files while no one writes to them.
func takeSnapshot(dir string) (_ *snapshot, err error) {
	f, err := openFolder(dir, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	s := &snapshot{dir: dir}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	h, err := f.open(headName, unix.O_RDONLY)
	if err != nil {
		s.headErr = fmt.Errorf("%w: %w", errNoHead, err)
	} else {
		defer func() { _ = h.Close() }() // it was read from only
		unlock, err := lock(h, unix.LOCK_SH, DefaultPatience)
		if err != nil {
			return nil, err
		}
		defer unlock()
		var empty bool
		if s.head, empty, s.headErr = readHead(h); s.headErr == nil && empty {
			s.headErr = errHead
		}
	}
	names, err := f.archives()
	if err != nil {
		return nil, err
	}
	for _, name := range append(names, FileName) {
		file, err := f.open(name, unix.O_RDONLY)
		if errors.Is(err, unix.ENOENT) {
			// Writers remove a pruned file without the lock. One that nobody pruned is
			// missed when the chain is followed.
			continue
		}
		if err != nil {
			return nil, err
		}
		opened := &snapshotFile{File: file, name: name}
		s.files = append(s.files, opened)
		info, err := file.Stat()
		if err != nil {
			return nil, fmt.Errorf("examine %s: %w", file.Name(), err)
		}
		opened.size = info.Size()
		opened.first = firstSeq(opened)
	}
	if len(s.files) == 0 {
		return nil, fmt.Errorf("there is no audit log in %s: open %s: %w", dir, FileName, plain(unix.ENOENT))
	}
	slices.SortStableFunc(s.files, func(a, b *snapshotFile) int {
		switch {
		case a.first < b.first:
			return -1
		case a.first > b.first:
			return 1
		}
		return 0
	})
	return s, nil
}

// firstSeq is the number of a file's first record; one without any comes last.
func firstSeq(f *snapshotFile) uint64 {
	l := newLines(f.reader())
	for range 3 {
		line, err := l.next()
		if err != nil {
			break
		}
		if r, err := decode(line.data); err == nil {
			return r.Seq
		}
	}
	return ^uint64(0)
}

func (f *snapshotFile) reader() io.Reader { return io.NewSectionReader(f, 0, f.size) }

func (s *snapshot) close() {
	for _, f := range s.files {
		_ = f.Close() // it was read from only
	}
}

// verifier follows the chain.
type verifier struct {
	*Report
	// at is the last record that was read.
	at place
	// odd is a line that is no record, and waits for the next one to explain it.
	odd *oddLine
	// head is where the log ended, headPassed whether that record was read.
	head       head
	headPassed bool
	// expect is a place that must be passed too.
	expect       *Place
	expectPassed bool
	// before is what the oldest record follows, in the file oldestIn; pruned are
	// the ends of files that were removed because the log was full.
	before   place
	oldestIn string
	pruned   map[place]bool
	// finished is whether the last record finished its file.
	finished bool
}

// oddLine is a line that is no record.
type oddLine struct {
	file     string
	line     int
	bytes    int64
	sum      string
	complete bool
	why      error
}

func (v *verifier) file(f *snapshotFile, isLast bool) error {
	v.Files++
	l := newLines(f.reader())
	for n := 1; ; n++ {
		line, err := l.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", f.Name(), err)
		}
		r, err := Record{}, errShape
		if line.complete {
			r, err = decode(line.data)
		}
		if err == nil {
			v.record(f.name, n, &r)
			continue
		}
		v.unexplained()
		v.odd = &oddLine{f.name, n, line.length, line.digest(), line.complete, err}
	}
	if v.odd != nil && (v.odd.complete || !isLast) {
		v.unexplained()
	}
	if !isLast && !v.finished {
		v.problem(f.name, 0, "its last record does not say that the file was finished: lines were moved between files")
	}
	return nil
}

// unexplained reports the line that is no record, if there is one.
func (v *verifier) unexplained() {
	if v.odd != nil {
		v.problem(v.odd.file, v.odd.line, "%v: the line was changed", v.odd.why)
		v.odd = nil
	}
}

func (v *verifier) record(file string, n int, r *Record) {
	object := r.Object
	if object == nil {
		object = &Object{}
	}
	action := ""
	if r.Event == Lost || r.Event == LogFile {
		action = object.Action
	}
	v.torn(file, n, object, action == ActionTorn)
	switch {
	case action == ActionDamaged:
		v.problem(file, n, "a writer found the log before this line damaged: %s", object.Detail)
	case action == ActionPrune:
		v.pruned[place{object.Last, object.SHA256}] = true
	case r.Event == Lost && action != ActionTorn:
		of := ""
		if r.Container != "" {
			of = " of container " + r.Container
		}
		v.loss(file, n, "%d records%s were lost (%s): %s", object.Count, of, action, object.Detail)
	}
	v.follows(file, n, r, action == ActionDamaged)
	v.finished = action == ActionRotate
	if r.Seq == v.head.Seq {
		v.headPassed = r.Hash == v.head.Hash
	}
	if v.expect != nil && r.Seq == v.expect.Seq {
		v.expectPassed = r.Hash == v.expect.Hash
	}
}

// torn explains a line that is no record by the record after it.
func (v *verifier) torn(file string, n int, object *Object, isTorn bool) {
	switch {
	case isTorn && v.odd != nil && v.odd.file == file && v.odd.bytes == object.Bytes && v.odd.sum == object.SHA256:
		v.loss(file, v.odd.line, "the writer of this line was interrupted; the chain goes on after it")
		v.odd = nil
	case isTorn:
		v.unexplained()
		v.problem(file, n, "the interrupted line that it tells of is not there")
	default:
		v.unexplained()
	}
}

// follows checks a record's place in the chain.
func (v *verifier) follows(file string, n int, r *Record, afterDamage bool) {
	switch want := v.at.seq + 1; {
	case v.Records == 0:
		v.before, v.oldestIn = place{r.Seq - 1, r.Prev}, file
		v.Oldest, v.Since = Place{r.Seq, r.Hash}, r.Time
	case r.Seq < want:
		v.problem(file, n, "record %d stands after record %d: the lines were reordered, or one is there twice", r.Seq, v.at.seq)
	case r.Seq > want && !afterDamage:
		v.problem(file, n, "%s missing before this line", span(want, r.Seq-1))
	case r.Prev != v.at.hash:
		v.problem(file, n, "record %d does not follow the record before it: one of them was replaced", r.Seq)
	}
	v.Records++
	if v.Records > 1 && r.Seq <= v.at.seq {
		// The chain goes on where it was.
		return
	}
	v.at = place{r.Seq, r.Hash}
	v.Newest, v.Until = Place{r.Seq, r.Hash}, r.Time
}

// finish judges what only the end can show.
func (v *verifier) finish(s *snapshot) {
	if v.Records == 0 {
		v.problem(s.dir, 0, "there is no record in it")
	}
	v.checkBegin()
	v.checkHead(s)
	if v.odd != nil {
		if v.Intact() {
			v.loss(v.odd.file, v.odd.line, "the writer of the last line was interrupted; the next writer will say so")
		} else {
			v.unexplained()
		}
	}
	if v.expect != nil && !v.expectPassed {
		v.problem(s.dir, 0, "record %d with the hash %s, which is expected, is not in the log", v.expect.Seq, v.expect.Hash)
	}
}

func (v *verifier) checkBegin() {
	switch {
	case v.Records == 0 || v.before == start || v.pruned[v.before]:
	case v.before.seq == 0:
		v.problem(v.oldestIn, 1, "the first record names a record before it")
	default:
		v.problem(v.oldestIn, 1, "records up to %d are missing before this line, and no record says that they were removed for the log's size", v.before.seq)
	}
}

func (v *verifier) checkHead(s *snapshot) {
	switch {
	case errors.Is(s.headErr, errNoHead) && v.expect != nil:
		return
	case s.headErr != nil:
		v.problem(headName, 0, "%v", s.headErr)
		return
	case v.at.seq < v.head.Seq:
		v.problem(FileName, 0, "%s missing at the end", span(v.at.seq+1, v.head.Seq))
	case v.head.Seq > v.before.seq && !v.headPassed:
		v.problem(headName, 0, "record %d is not the one that was written", v.head.Seq)
	}
	if v.head.Lost > 0 {
		v.loss(headName, 0, "%d records could not be written, and no record says so yet", v.head.Lost)
	}
}

// span is some records in words.
func span(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("record %d is", from)
	}
	return fmt.Sprintf("records %d to %d are", from, to)
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}
