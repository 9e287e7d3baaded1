package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultPatience is how long a writer waits for the others.
const DefaultPatience = 5 * time.Second

// Options describe a log.
type Options struct {
	// Dir is the log's folder. It is made where it is not there.
	Dir string
	// MaxSize is the size from which on a file is finished, in bytes: it may be
	// larger by one write. Keep is how many files there may be.
	MaxSize int64
	Keep    int
	// Patience is how long to wait for other writers. Zero: DefaultPatience.
	Patience time.Duration
}

// Log writes to the log of a host, together with other processes that do. Its
// methods are safe for concurrent use. Nothing is opened before the first
// Append, and what failed is tried again by the next.
type Log struct {
	o Options

	mu     sync.Mutex
	folder *folder
	head   *os.File
	file   *os.File
	// ino, size and last are the file's as this writer left it. While they are
	// so, nobody else has written.
	ino  uint64
	size int64
	last place
	// unwritten counts records of this writer that the disk did not take and the
	// head does not know of.
	unwritten uint64
}

// NewLog returns a writer of the log.
func NewLog(o Options) *Log {
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	return &Log{o: o}
}

// Append writes the records, which come from NewRecord, gives each its number, boot and hashes, and returns
// when they are on the disk. On an error none of them was written, or it is not
// known; they are counted, and the count is recorded when that is possible again.
func (l *Log) Append(records ...Record) error {
	if len(records) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.append(records); err != nil {
		l.unwritten += uint64(len(records))
		return fmt.Errorf("write the audit log %s: %w", l.o.Dir, errors.Join(err, l.countUnwritten()))
	}
	return nil
}

func (l *Log) append(records []Record) error {
	if err := l.open(); err != nil {
		return err
	}
	written, err := l.writeLocked(records)
	if err != nil {
		return err
	}
	// Not under the lock: other writers need not wait for the disk. So the head
	// never tells of a record that a crash of the host could still take.
	if err := written.sync(); err != nil {
		return err
	}
	return l.advance(written.last)
}

// open opens the folder and the head. At its first use the head is written
// before any record is: a log without a head has been tampered with.
func (l *Log) open() (err error) {
	if l.head != nil {
		// A folder that was moved away takes its open files with it.
		var here, now unix.Stat_t
		if unix.Fstat(int(l.folder.fd.Fd()), &here) == nil && unix.Stat(l.o.Dir, &now) == nil && here.Ino == now.Ino && here.Dev == now.Dev {
			return nil
		}
		l.close()
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.folder, err = openFolder(l.o.Dir, true); err != nil {
		return err
	}
	if l.head, err = l.folder.create(headName, unix.O_RDWR); err != nil {
		return err
	}
	unlock, err := lock(l.head, unix.LOCK_EX, l.o.Patience)
	if err != nil {
		return err
	}
	defer unlock()
	if _, empty, _ := readHead(l.head); !empty {
		return nil
	}
	if used, err := l.used(); err != nil || used {
		return err
	}
	if err := writeHead(l.head, head{Hash: noHash}); err != nil {
		return err
	}
	if err := l.head.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", l.head.Name(), plain(err))
	}
	return l.folder.sync()
}

// used reports whether there are records.
func (l *Log) used() (bool, error) {
	archives, err := l.folder.archives()
	if err != nil || len(archives) > 0 {
		return true, err
	}
	var st unix.Stat_t
	err = unix.Fstatat(int(l.folder.fd.Fd()), FileName, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("examine %s: %w", FileName, plain(err))
	}
	return st.Size > 0, nil
}

// written is what has to be on the disk before an Append is done.
type written struct {
	file *os.File
	last place
	// prune are files to remove afterwards.
	prune  []string
	folder *folder
}

func (w *written) sync() error {
	if err := unix.Fdatasync(int(w.file.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", w.file.Name(), plain(err))
	}
	var errs []error
	for _, name := range w.prune {
		errs = append(errs, w.folder.remove(name))
	}
	return errors.Join(errs...)
}

// writeLocked writes the records after what the log holds by now.
func (l *Log) writeLocked(records []Record) (*written, error) {
	unlock, err := lock(l.head, unix.LOCK_EX, l.o.Patience)
	if err != nil {
		return nil, err
	}
	defer unlock()
	h, empty, err := readHead(l.head)
	headBad := empty || errors.Is(err, errHead)
	if err != nil && !headBad {
		return nil, err
	}
	end, err := l.find()
	if err != nil {
		return nil, err
	}
	b := &batch{last: end.last}
	b.mend(end, h, headBad)
	if n := h.Lost + l.unwritten; n > 0 {
		b.add(Record{Entry: Entry{Event: Lost, Object: &Object{Action: ActionUnwritten, Count: n, Detail: "the disk did not take them"}}})
	}
	w := &written{folder: l.folder}
	if l.size >= l.o.MaxSize {
		if err := l.rotate(b, w); err != nil {
			return nil, err
		}
	}
	for _, r := range records {
		b.add(r)
	}
	if err := l.write(b); err != nil {
		return nil, err
	}
	if h.Lost > 0 {
		// What has been said need not be said again.
		if err := writeHead(l.head, head{Seq: h.Seq, Hash: h.Hash}); err != nil {
			return nil, err
		}
	}
	l.unwritten = 0
	w.file, w.last = l.file, b.last
	return w, nil
}

// find makes l.file the log's last file, and returns its end. The lock is held.
func (l *Log) find() (tail, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(l.folder.fd.Fd()), FileName, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && l.file != nil && st.Ino == l.ino && st.Size == l.size && l.size > 0 {
		return tail{last: l.last}, nil
	}
	if err := l.reopen(); err != nil {
		return tail{}, err
	}
	if l.size > 0 {
		return readTail(l.file, l.size)
	}
	archives, err := l.folder.archives()
	if err != nil {
		return tail{}, err
	}
	if len(archives) == 0 {
		return tail{last: start}, nil
	}
	return l.archiveTail(archives[len(archives)-1])
}

func (l *Log) archiveTail(name string) (tail, error) {
	f, err := l.folder.open(name, unix.O_RDONLY)
	if err != nil {
		return tail{}, err
	}
	defer func() { _ = f.Close() }() // it was read from only
	info, err := f.Stat()
	if err != nil {
		return tail{}, err
	}
	return readTail(f, info.Size())
}

// reopen opens the file that is written to.
func (l *Log) reopen() error {
	if l.file != nil {
		_ = l.file.Close() // what was written has been synced
		l.file = nil
	}
	f, err := l.folder.create(FileName, unix.O_RDWR|unix.O_APPEND)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return errors.Join(fmt.Errorf("examine %s: %w", f.Name(), plain(err)), f.Close())
	}
	l.file, l.ino, l.size = f, st.Ino, st.Size
	return nil
}

// rotate finishes the file with what b holds and one more record, and begins a
// new one with b empty.
func (l *Log) rotate(b *batch, w *written) error {
	name := archiveName(b.last.seq + 1)
	b.add(Record{Entry: Entry{Event: LogFile, Object: &Object{Action: ActionRotate, File: name}}})
	if err := l.write(b); err != nil {
		return err
	}
	// Before the name changes, so that a crash cannot leave a hole between files.
	if err := unix.Fdatasync(int(l.file.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", l.file.Name(), plain(err))
	}
	if err := l.folder.rename(FileName, name); err != nil {
		return err
	}
	if err := l.reopen(); err != nil {
		return err
	}
	if err := l.folder.sync(); err != nil {
		return err
	}
	*b = batch{last: b.last}
	archives, err := l.folder.archives()
	if err != nil {
		return err
	}
	// The file that is written to is one of those to keep.
	for len(archives) > max(l.o.Keep, 2)-1 {
		t, err := l.archiveTail(archives[0])
		if errors.Is(err, unix.ENOENT) {
			// The writer that pruned it has removed it by now, which needs no lock.
			archives = archives[1:]
			continue
		}
		if err != nil {
			return err
		}
		b.add(Record{Entry: Entry{Event: LogFile, Object: &Object{
			Action: ActionPrune, File: archives[0], Last: t.last.seq, SHA256: t.last.hash,
			Detail: "the log has its largest size",
		}}})
		w.prune = append(w.prune, archives[0])
		archives = archives[1:]
	}
	return nil
}

// write appends the batch to the file, all of it or nothing.
func (l *Log) write(b *batch) error {
	if b.err != nil {
		return b.err
	}
	n, err := l.file.Write(b.buf.Bytes())
	if err != nil {
		err = fmt.Errorf("write %s: %w", l.file.Name(), plain(err))
		if n > 0 {
			// The lock is held: nobody has written after it.
			err = errors.Join(err, l.file.Truncate(l.size))
		}
		return err
	}
	l.size += int64(n)
	l.last = b.last
	return nil
}

// advance lets the head tell of what is on the disk now.
func (l *Log) advance(to place) error {
	unlock, err := lock(l.head, unix.LOCK_EX, l.o.Patience)
	if err != nil {
		return err
	}
	defer unlock()
	h, _, err := readHead(l.head)
	if err != nil && !errors.Is(err, errHead) {
		return err
	}
	if h.Seq >= to.seq {
		return nil
	}
	return writeHead(l.head, head{Seq: to.seq, Hash: to.hash, Lost: h.Lost})
}

// countUnwritten tells the head of records that could not be written, which it
// can hold on a full disk too. The count outlives this process there.
func (l *Log) countUnwritten() error {
	if l.head == nil {
		return nil
	}
	unlock, err := lock(l.head, unix.LOCK_EX, 0)
	if err != nil {
		// It stays counted here.
		return nil
	}
	defer unlock()
	h, empty, err := readHead(l.head)
	if err != nil || empty {
		return err
	}
	h.Lost += l.unwritten
	if err := writeHead(l.head, h); err != nil {
		return err
	}
	l.unwritten = 0
	return nil
}

func (l *Log) close() {
	if l.file != nil {
		_ = l.file.Close()
	}
	if l.head != nil {
		_ = l.head.Close()
	}
	if l.folder != nil {
		_ = l.folder.close()
	}
	l.file, l.head, l.folder, l.size = nil, nil, nil, 0
}

// Close closes the log's files.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.close()
}

// batch is lines that are written at once.
type batch struct {
	buf  bytes.Buffer
	last place
	err  error
}

// add appends a record to the chain.
func (b *batch) add(r Record) {
	if b.err != nil {
		return
	}
	r.Seq, r.Prev, r.BootID = b.last.seq+1, b.last.hash, bootID()
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	r.Time = r.Time.UTC()
	line, err := encode(&r)
	if err != nil {
		b.err = err
		return
	}
	b.buf.Write(line)
	b.last = place{r.Seq, r.Hash}
}

// mend begins the batch with what must be said about the end of the log before
// anything may follow it.
func (b *batch) mend(end tail, h head, headBad bool) {
	if end.rest > 0 {
		b.buf.WriteByte('\n')
	}
	damage := ""
	switch {
	case headBad:
		damage = "the file \"" + headName + "\" was not as it was written"
	case end.last.seq < h.Seq:
		damage = fmt.Sprintf("record %d was the last to be written, and %d is the last that is there", h.Seq, end.last.seq)
	case end.last.seq == h.Seq && end.last.hash != h.Hash:
		damage = fmt.Sprintf("record %d is not the one that was written", h.Seq)
	case end.lines:
		damage = fmt.Sprintf("lines after record %d are no records", end.last.seq)
	}
	object := &Object{Bytes: end.rest, SHA256: end.sum}
	switch {
	case damage != "":
		object.Action, object.Detail = ActionDamaged, damage
		b.last.seq = max(b.last.seq, h.Seq)
		b.add(Record{Entry: Entry{Event: Lost, Object: object}})
	case end.rest > 0:
		object.Action, object.Detail = ActionTorn, "its writer was interrupted"
		b.add(Record{Entry: Entry{Event: Lost, Object: object}})
	case end.last == start:
		b.add(Record{Entry: Entry{Event: LogFile, Object: &Object{Action: ActionBegin}}})
	}
}

// bootID is the host's, which changes when it starts anew.
var bootID = sync.OnceValue(func() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		// Every Linux has it; where /proc is not there, nothing of this project runs.
		return ""
	}
	return strings.TrimSpace(string(data))
})
