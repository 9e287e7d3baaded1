package audit

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// sample is a small log of several files, as bytes by name.
func sample(t *testing.T) map[string][]byte {
	t.Helper()
	l := newTestLog(t, Options{MaxSize: 900, Keep: 3})
	for n := range 8 {
		mustAppend(t, l, event("a", n))
	}
	l.Close()
	mustVerify(t, l.o.Dir, 0)
	return load(t, l.o.Dir)
}

func load(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// save makes dir hold just these files.
func save(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func mustFind(t *testing.T, dir, what string) {
	t.Helper()
	// A log that cannot be read at all is not intact either.
	if r, err := Verify(dir, VerifyOptions{}); err == nil && r.Intact() {
		t.Fatalf("not found: %s", what)
	}
}

func TestVerifyFindsEveryChangedBit(t *testing.T) {
	files := sample(t)
	dir := filepath.Join(t.TempDir(), "log")
	save(t, dir, files)
	if r := mustVerify(t, dir, 0); r.Files < 3 {
		t.Fatalf("%d files, want several", r.Files)
	}
	// Every fifth bit, beginning anywhere: each bit of a byte comes up, and in
	// five runs all of them.
	const step = 5
	first := rand.IntN(step)
	for name, data := range files {
		path := filepath.Join(dir, name)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		for bit := first; bit < 8*len(data); bit += step {
			at := int64(bit / 8)
			changed := []byte{data[at] ^ 1<<(bit%8)}
			if _, err := f.WriteAt(changed, at); err != nil {
				t.Fatal(err)
			}
			mustFind(t, dir, fmt.Sprintf("bit %d of byte %d of %s", bit%8, at, name))
			if _, err := f.WriteAt(data[at:at+1], at); err != nil {
				t.Fatal(err)
			}
		}
		_ = f.Close()
	}
	mustVerify(t, dir, 0)
}

func TestVerifyFindsEveryChangedLine(t *testing.T) {
	files := sample(t)
	dir := filepath.Join(t.TempDir(), "log")
	logs := slices.DeleteFunc(slices.Sorted(maps.Keys(files)), func(n string) bool { return n == headName })

	with := func(name string, lines [][]byte) map[string][]byte {
		changed := maps.Clone(files)
		changed[name] = bytes.Join(lines, nil)
		return changed
	}
	try := func(changed map[string][]byte, what string) {
		save(t, dir, changed)
		mustFind(t, dir, what)
	}
	for _, name := range logs {
		lines := bytes.SplitAfter(files[name], []byte("\n"))
		lines = lines[:len(lines)-1]
		for i := range lines {
			try(with(name, slices.Delete(slices.Clone(lines), i, i+1)), fmt.Sprintf("line %d of %s removed", i+1, name))
			try(with(name, slices.Insert(slices.Clone(lines), i, lines[i])), fmt.Sprintf("line %d of %s doubled", i+1, name))
			try(with(name, slices.Insert(slices.Clone(lines), i, []byte("\n"))), fmt.Sprintf("empty line before line %d of %s", i+1, name))
			try(with(name, lines[:i]), fmt.Sprintf("%s cut before line %d", name, i+1))
			cut := slices.Clone(lines)
			cut[i] = cut[i][:len(cut[i])/2]
			try(with(name, cut), fmt.Sprintf("half of line %d of %s", i+1, name))
			for j := range i {
				swapped := slices.Clone(lines)
				swapped[i], swapped[j] = swapped[j], swapped[i]
				try(with(name, swapped), fmt.Sprintf("lines %d and %d of %s swapped", j+1, i+1, name))
			}
			for _, other := range logs {
				if other == name {
					continue
				}
				moved := with(name, slices.Delete(slices.Clone(lines), i, i+1))
				moved[other] = append(slices.Clone(moved[other]), lines[i]...)
				try(moved, fmt.Sprintf("line %d of %s moved to the end of %s", i+1, name, other))
			}
		}
		gone := maps.Clone(files)
		delete(gone, name)
		try(gone, name+" removed")
	}
	gone := maps.Clone(files)
	delete(gone, headName)
	try(gone, "head removed")

	// Renamed files are in order all the same: nothing was lost by it.
	renamed := maps.Clone(files)
	renamed[archiveName(99999)] = renamed[logs[0]]
	delete(renamed, logs[0])
	save(t, dir, renamed)
	mustVerify(t, dir, 0)
}

// Each kind of damage is named for what it is, at the line where it is.
func TestVerifyNamesTheDamage(t *testing.T) {
	l := newTestLog(t, Options{})
	for n := range 5 {
		mustAppend(t, l, event("a", n))
	}
	files := load(t, l.o.Dir)
	lines := bytes.SplitAfter(files[FileName], []byte("\n"))
	lines = lines[:len(lines)-1]
	// A line by somebody who can hash, but does not write the rest anew.
	forged, err := decode(bytes.TrimSuffix(lines[2], []byte("\n")))
	if err != nil {
		t.Fatal(err)
	}
	forged.Decision = Allow
	forgery, err := encode(&forged)
	if err != nil {
		t.Fatal(err)
	}
	last, err := decode(bytes.TrimSuffix(lines[5], []byte("\n")))
	if err != nil {
		t.Fatal(err)
	}
	last.Decision = Allow
	replaced, err := encode(&last)
	if err != nil {
		t.Fatal(err)
	}
	for want, changed := range map[string][][]byte{
		"head: record 6 is not the one that was written":                      {lines[0], lines[1], lines[2], lines[3], lines[4], replaced},
		"audit.jsonl:4: record 4 does not follow the record before it":        {lines[0], lines[1], forgery, lines[3], lines[4], lines[5]},
		"audit.jsonl:3: record 3 is missing before this line":                 {lines[0], lines[1], lines[3], lines[4], lines[5]},
		"audit.jsonl:3: records 3 to 4 are missing before this line":          {lines[0], lines[1], lines[4], lines[5]},
		"audit.jsonl:4: record 3 stands after record 4":                       {lines[0], lines[1], lines[3], lines[2], lines[4], lines[5]},
		"audit.jsonl:2: it is no record":                                      {lines[0], []byte("{}\n"), lines[1], lines[2], lines[3], lines[4], lines[5]},
		"audit.jsonl: records 5 to 6 are missing at the end":                  {lines[0], lines[1], lines[2], lines[3]},
		"audit.jsonl:1: records up to 1 are missing before this line, and no": {lines[1], lines[2], lines[3], lines[4], lines[5]},
	} {
		all := maps.Clone(files)
		all[FileName] = bytes.Join(changed, nil)
		save(t, l.o.Dir, all)
		r, err := Verify(l.o.Dir, VerifyOptions{})
		named := func(f Finding) bool { return strings.HasPrefix(f.String(), want) }
		if err != nil || !slices.ContainsFunc(r.Problems, named) {
			t.Errorf("%v: %v, want %s", err, r.Problems, want)
		}
	}
}

func TestVerifyFindsRandomMutations(t *testing.T) {
	files := sample(t)
	dir := filepath.Join(t.TempDir(), "log")
	names := slices.Sorted(maps.Keys(files))
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		name := names[random.IntN(len(names))]
		data := bytes.Clone(files[name])
		for range 1 + random.IntN(3) {
			i, j := random.IntN(len(data)+1), random.IntN(len(data)+1)
			i, j = min(i, j), max(i, j)
			switch random.IntN(3) {
			case 0:
				data = slices.Delete(data, i, j)
			case 1:
				data = slices.Insert(data, i, data[i:j]...)
			case 2:
				slices.Reverse(data[i:j])
			}
			if len(data) == 0 {
				break
			}
		}
		if bytes.Equal(data, files[name]) {
			continue
		}
		changed := maps.Clone(files)
		changed[name] = data
		save(t, dir, changed)
		mustFind(t, dir, fmt.Sprintf("%s is now %q", name, data))
	}
}

// Somebody who can hash can write the chain anew; what was kept elsewhere shows
// it.
func TestVerifyExpect(t *testing.T) {
	l := newTestLog(t, Options{})
	for n := range 5 {
		mustAppend(t, l, event("a", n))
	}
	kept := mustVerify(t, l.o.Dir, 0).Newest
	mustAppend(t, l, event("a", 6))

	check := func(dir string, p Place) bool {
		r, err := Verify(dir, VerifyOptions{Expect: &p})
		if err != nil {
			t.Fatal(err)
		}
		return r.Intact()
	}
	if !check(l.o.Dir, kept) {
		t.Error("the kept place was not found in its own log")
	}
	forged := newTestLog(t, Options{})
	for n := range 9 {
		mustAppend(t, forged, event("b", n))
	}
	mustVerify(t, forged.o.Dir, 0)
	if check(forged.o.Dir, kept) {
		t.Error("a chain that was written anew was taken for the one that is expected")
	}
	// A copy without its head.
	if err := os.Remove(filepath.Join(l.o.Dir, headName)); err != nil {
		t.Fatal(err)
	}
	if !check(l.o.Dir, kept) {
		t.Error("a copy without head, with a place that is expected, was not accepted")
	}
}

func TestVerifyWithoutALog(t *testing.T) {
	for name, dir := range map[string]string{"absent": filepath.Join(t.TempDir(), "absent"), "empty": t.TempDir()} {
		if _, err := Verify(dir, VerifyOptions{}); err == nil {
			t.Errorf("%s: a log that is not there was verified", name)
		}
	}
	// As the first writer left it, whose disk was full.
	dir := t.TempDir()
	data, err := head{Hash: noHash}.encode()
	if err != nil {
		t.Fatal(err)
	}
	save(t, dir, map[string][]byte{headName: data, FileName: nil})
	if r, err := Verify(dir, VerifyOptions{}); err != nil || r.Intact() {
		t.Errorf("a log without a record is intact: %v", err)
	}
}

func TestVerifyWhileWritten(t *testing.T) {
	l := newTestLog(t, Options{MaxSize: 1, Keep: 3}) // each record in a file of its own
	mustAppend(t, l, event("a", 0))
	var writers sync.WaitGroup
	stop := make(chan struct{})
	for _, name := range []string{"a", "b"} {
		w := newTestLog(t, l.o)
		writers.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := w.Append(event(name, n)); err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	for range 200 {
		r, err := Verify(l.o.Dir, VerifyOptions{})
		if err != nil {
			t.Errorf("a file that is removed meanwhile: %v", err)
			break
		}
		if !r.Intact() {
			t.Errorf("problems: %v", r.Problems)
			break
		}
	}
	close(stop)
	writers.Wait()
}

func TestReportIsBounded(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte(strings.Repeat("x\n", 10_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Verify(dir, VerifyOptions{})
	if err != nil || len(r.Problems) != maxFindings || r.More < 9_000 {
		t.Errorf("%v: %d problems and %d more", err, len(r.Problems), r.More)
	}
}

// FuzzVerify gives the reader any bytes for a log. It must end, and must not
// call intact what the writer did not write.
func FuzzVerify(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "seed")
	l := NewLog(Options{Dir: dir, MaxSize: 1 << 20, Keep: 2})
	for n := range 3 {
		if err := l.Append(event("a", n)); err != nil {
			f.Fatal(err)
		}
	}
	l.Close()
	file, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		f.Fatal(err)
	}
	end, err := os.ReadFile(filepath.Join(dir, headName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file, end)
	f.Add(append(bytes.Clone(file), `{"seq":`...), end)
	f.Add([]byte("\n\n"), end)
	f.Add([]byte(`{"seq":1,"prev":"`+noHash+`","hash":"`+noHash+`"}`+"\n"), []byte{})
	f.Add(bytes.Repeat([]byte("x"), maxLine+2), end)
	f.Fuzz(func(t *testing.T, data, head []byte) {
		dir := t.TempDir()
		for name, content := range map[string][]byte{FileName: data, headName: head} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, err := Verify(dir, VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		// All bytes but a torn end must be records, byte for byte.
		if r.Intact() && bytes.Equal(head, end) && len(r.Losses) == 0 && !bytes.HasPrefix(data, file) {
			t.Fatalf("intact: %q", data)
		}
		if err := Each(dir, func(*Record) error { return nil }); err != nil {
			t.Fatal(err)
		}
		// A writer goes on after anything.
		l := NewLog(Options{Dir: dir, MaxSize: 1 << 20, Keep: 2})
		defer l.Close()
		if err := l.Append(event("a", 9)); err != nil {
			t.Fatal(err)
		}
		if after, err := Verify(dir, VerifyOptions{}); err != nil || !r.Intact() && after.Intact() {
			t.Fatalf("a writer made the log seem intact: %v, before: %v", err, r.Problems)
		}
	})
}
