package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/internal/testns"
)

func newTestLog(t *testing.T, o Options) *Log {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "log")
	}
	if o.MaxSize == 0 {
		o.MaxSize = 1 << 20
	}
	if o.Keep == 0 {
		o.Keep = 4
	}
	l := NewLog(o)
	t.Cleanup(l.Close)
	return l
}

func mustAppend(t *testing.T, l *Log, records ...Record) {
	t.Helper()
	if err := l.Append(records...); err != nil {
		t.Fatal(err)
	}
}

// mustVerify fails unless the log is intact and has so many losses.
func mustVerify(t *testing.T, dir string, losses int) *Report {
	t.Helper()
	r, err := Verify(dir, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Intact() || len(r.Losses) != losses {
		t.Fatalf("problems %v, losses %v; want none and %d", r.Problems, r.Losses, losses)
	}
	return r
}

func content(t *testing.T, dir string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

func TestAppendIsAChainAnyoneCanCheck(t *testing.T) {
	l := newTestLog(t, Options{})
	for n := range 5 {
		mustAppend(t, l, event("a", n), event("b", n))
	}
	if r := mustVerify(t, l.o.Dir, 0); r.Records != 11 || r.Newest.Seq != 11 {
		t.Fatalf("%d records, the last is %d; want 11", r.Records, r.Newest.Seq)
	}
	// By the documentation's words, with no code of this package.
	prev := strings.Repeat("0", 64)
	for i, line := range content(t, l.o.Dir) {
		var got struct {
			Seq        int
			Prev, Hash string
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		bare := strings.Replace(line, `,"hash":"`+got.Hash+`"`, "", 1)
		sum := sha256.Sum256([]byte(prev + bare))
		if got.Seq != i+1 || got.Prev != prev || got.Hash != hex.EncodeToString(sum[:]) {
			t.Fatalf("line %d is not as documented: %s", i+1, line)
		}
		prev = got.Hash
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	l := newTestLog(t, Options{})
	mustAppend(t, l, event("a", 1))
	for name, want := range map[string]os.FileMode{"": 0o700 | os.ModeDir, FileName: 0o600, headName: 0o600} {
		info, err := os.Stat(filepath.Join(l.o.Dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%q has mode %v (%v), want %v", name, info.Mode(), err, want)
		}
	}
	flags, err := unix.FcntlInt(l.file.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_APPEND == 0 {
		t.Errorf("the file is not opened for appending: %#x, %v", flags, err)
	}
}

func TestRefusesWhatOthersCanWrite(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"folder": func(dir string) error { return os.Chmod(dir, 0o770) },
		"file":   func(dir string) error { return os.Chmod(filepath.Join(dir, FileName), 0o602) },
		"head":   func(dir string) error { return os.Chmod(filepath.Join(dir, headName), 0o620) },
		"link": func(dir string) error {
			file := filepath.Join(dir, FileName)
			return errors.Join(os.Rename(file, file+".moved"), os.Symlink(file+".moved", file))
		},
		"pipe": func(dir string) error {
			file := filepath.Join(dir, FileName)
			return errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600))
		},
	} {
		l := newTestLog(t, Options{})
		mustAppend(t, l, event("a", 1))
		l.Close()
		if err := prepare(l.o.Dir); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(event("a", 2)); err == nil {
			t.Errorf("%s: a log that others can write to was accepted", name)
		}
	}
}

func TestWritersTakeTurns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	const writers, each = 8, 40
	var wg sync.WaitGroup
	for w := range writers {
		// Small files: they rotate under one another.
		l := newTestLog(t, Options{Dir: dir, MaxSize: 8 << 10, Keep: 1000})
		wg.Go(func() {
			for n := range each {
				if err := l.Append(event(fmt.Sprint("container-", w), n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	r := mustVerify(t, dir, 0)
	if r.Files < 5 {
		t.Errorf("%d files: the log did not rotate", r.Files)
	}
	// Each container's own records are all there, in their order.
	next := map[string]int{}
	if err := Each(dir, func(r *Record) error {
		if r.Event == Exec {
			if got := r.Subject.Argv[1]; got != fmt.Sprint(next[r.Container]) {
				return fmt.Errorf("%s: record %s, want %d", r.Container, got, next[r.Container])
			}
			next[r.Container]++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for w := range writers {
		if n := next[fmt.Sprint("container-", w)]; n != each {
			t.Errorf("writer %d: %d records, want %d", w, n, each)
		}
	}
}

func TestRotationKeepsTheChainAndTheBound(t *testing.T) {
	l := newTestLog(t, Options{MaxSize: 4 << 10, Keep: 3})
	for n := range 200 {
		mustAppend(t, l, event("a", n))
	}
	r := mustVerify(t, l.o.Dir, 0)
	if r.Files != 3 || r.Oldest.Seq == 1 {
		t.Fatalf("%d files from record %d, want 3 and the first ones gone", r.Files, r.Oldest.Seq)
	}
	var size int64
	files, err := filepath.Glob(filepath.Join(l.o.Dir, "audit*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 3*(4<<10)+3*1024 {
		t.Errorf("the log has %d bytes", size)
	}
	// Somebody who removes a file is not the log that removes one.
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(l.o.Dir, VerifyOptions{}); err != nil || r.Intact() {
		t.Errorf("a removed file was not found: %v", err)
	}
}

func TestCrashBetweenRenameAndNewFile(t *testing.T) {
	l := newTestLog(t, Options{MaxSize: 1})
	mustAppend(t, l, event("a", 1))
	mustAppend(t, l, event("a", 2)) // finishes the first file
	if err := os.Remove(filepath.Join(l.o.Dir, FileName)); err != nil {
		t.Fatal(err)
	}
	h, err := os.OpenFile(filepath.Join(l.o.Dir, headName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	end, err := l.archiveTail(archiveName(3))
	if err != nil {
		t.Fatal(err)
	}
	// As it is before the new file has its first record.
	if err := errors.Join(writeHead(h, head{Seq: end.last.seq, Hash: end.last.hash}), h.Close()); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, l.o.Dir, 0)
	other := newTestLog(t, Options{Dir: l.o.Dir})
	mustAppend(t, other, event("a", 3))
	if r := mustVerify(t, l.o.Dir, 0); r.Records != 4 || r.Files != 2 {
		t.Errorf("%d records in %d files, want 4 in 2", r.Records, r.Files)
	}
}

func TestCrashBeforeRename(t *testing.T) {
	l := newTestLog(t, Options{})
	mustAppend(t, l, event("a", 1), Record{Entry: Entry{Event: LogFile, Object: &Object{Action: ActionRotate, File: "audit-x"}}})
	l.o.MaxSize = 1
	mustAppend(t, l, event("a", 2))
	if r := mustVerify(t, l.o.Dir, 0); r.Records != 5 || r.Files != 2 {
		t.Errorf("%d records in %d files, want 5 in 2", r.Records, r.Files)
	}
}

func TestTornLineIsSaidAndTheChainGoesOn(t *testing.T) {
	for _, piece := range []string{`{"seq":3,"time":"2026`, "\x00\x00\x00", strings.Repeat("x", 3*maxLine)} {
		l := newTestLog(t, Options{})
		mustAppend(t, l, event("a", 1))
		f, err := os.OpenFile(filepath.Join(l.o.Dir, FileName), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(piece); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		mustVerify(t, l.o.Dir, 1) // visible before anyone writes
		mustAppend(t, l, event("a", 2))
		r := mustVerify(t, l.o.Dir, 1)
		if r.Records != 4 {
			t.Errorf("%d records, want begin, two, and one about the torn line", r.Records)
		}
		// What is said about the piece holds it fast too.
		change(t, l.o.Dir, func(data []byte) []byte {
			i := bytes.Index(data, []byte(piece))
			data[i] ^= 1
			return data
		})
		if r, err := Verify(l.o.Dir, VerifyOptions{}); err != nil || r.Intact() {
			t.Errorf("a change of the torn piece %.10q was not found: %v", piece, err)
		}
		// And so does its absence.
		change(t, l.o.Dir, func(data []byte) []byte {
			lines := bytes.SplitAfter(data, []byte("\n"))
			return bytes.Join(append(lines[:2], lines[3:]...), nil)
		})
		if r, err := Verify(l.o.Dir, VerifyOptions{}); err != nil || len(r.Problems) != 1 {
			t.Errorf("the absence of the torn piece %.10q was not found: %v, %v", piece, err, r.Problems)
		}
	}
}

func change(t *testing.T, dir string, f func([]byte) []byte) {
	t.Helper()
	file := filepath.Join(dir, FileName)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, f(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDamageIsSaidByTheNextWriter(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"last line removed": func(t *testing.T, dir string) {
			change(t, dir, func(data []byte) []byte {
				return data[:bytes.LastIndexByte(data[:len(data)-1], '\n')+1]
			})
		},
		"last line changed": func(t *testing.T, dir string) {
			change(t, dir, func(data []byte) []byte { data[len(data)-40] ^= 1; return data })
		},
		"last line replaced": func(t *testing.T, dir string) {
			change(t, dir, func(data []byte) []byte {
				cut := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
				old, err := decode(data[cut : len(data)-1])
				if err != nil {
					t.Fatal(err)
				}
				old.Decision = Allow
				line, err := encode(&old)
				if err != nil {
					t.Fatal(err)
				}
				return append(data[:cut], line...)
			})
		},
		"last newline changed": func(t *testing.T, dir string) {
			change(t, dir, func(data []byte) []byte { data[len(data)-1] ^= 1; return data })
		},
		"line added": func(t *testing.T, dir string) {
			change(t, dir, func(data []byte) []byte { return append(data, "{}\n"...) })
		},
		"emptied": func(t *testing.T, dir string) {
			change(t, dir, func([]byte) []byte { return nil })
		},
		"file removed": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, FileName)); err != nil {
				t.Fatal(err)
			}
		},
		"head removed": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, headName)); err != nil {
				t.Fatal(err)
			}
		},
		"head changed": func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, headName), make([]byte, headBytes), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newTestLog(t, Options{})
			for n := range 3 {
				mustAppend(t, l, event("a", n))
			}
			l.Close()
			damage(t, l.o.Dir)
			// A writer goes on, and hides nothing by it.
			mustAppend(t, l, event("a", 4))
			mustAppend(t, l, event("a", 5))
			r, err := Verify(l.o.Dir, VerifyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if r.Intact() {
				t.Fatal("the damage was not found")
			}
			if lines := strings.Join(content(t, l.o.Dir), "\n"); !strings.Contains(lines, `"action":"damaged"`) {
				t.Errorf("the writer said nothing of the damage:\n%s", lines)
			}
		})
	}
}

func TestKilledWriters(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	last := map[int]int{}
	for range 4 {
		var cmds []*exec.Cmd
		var outs []*bufio.Scanner
		for range 2 {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), asWriter+"="+dir)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			cmds, outs = append(cmds, cmd), append(outs, bufio.NewScanner(out))
		}
		time.Sleep(150 * time.Millisecond)
		for i, cmd := range cmds {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			n := -1
			for outs[i].Scan() {
				if _, err := fmt.Sscan(outs[i].Text(), &n); err != nil {
					t.Fatal(outs[i].Text())
				}
			}
			last[cmd.Process.Pid] = n
			_ = cmd.Wait() // it was killed
		}
	}
	r, err := Verify(dir, VerifyOptions{})
	if err != nil || !r.Intact() {
		t.Fatalf("%v: %v", err, r.Problems)
	}
	// Every record that a writer had been told of as written is there.
	have := map[string]int{}
	if err := Each(dir, func(r *Record) error {
		if r.Event == Exec {
			have[r.Container]++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	total := 0
	for pid, n := range last {
		total += n + 1
		if got := have[fmt.Sprint(pid)]; got < n+1 || got > n+2 {
			t.Errorf("writer %d: %d records, and it had written %d", pid, got, n+1)
		}
	}
	if total == 0 {
		t.Fatal("no writer wrote anything")
	}
}

func TestStoppedWriterDoesNotStopOthers(t *testing.T) {
	l := newTestLog(t, Options{Patience: 50 * time.Millisecond})
	mustAppend(t, l, event("a", 1))
	f, err := os.Open(filepath.Join(l.o.Dir, headName))
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(f, unix.LOCK_EX, 0)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := l.Append(event("a", 2)); err == nil || time.Since(begin) > 2*time.Second {
		t.Fatalf("%v after %s, want an error at once", err, time.Since(begin))
	}
	unlock()
	_ = f.Close()
	mustAppend(t, l, event("a", 3))
	r := mustVerify(t, l.o.Dir, 1)
	if !strings.Contains(r.Losses[0].What, "1 records") {
		t.Errorf("the record that was not written is not counted: %v", r.Losses)
	}
}

// fullDisk is a folder on a file system of its own that can be filled.
func fullDisk(t *testing.T) (dir string, fill, free func()) {
	t.Helper()
	if !testns.Inside() {
		t.Skip("only root can make a small file system")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no small file system can be made here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	ballast := filepath.Join(disk, "ballast")
	fill = func() {
		if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("the disk is not full: %v", err)
		}
	}
	free = func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(disk, "log"), fill, free
}

func TestFullDisk(t *testing.T) {
	dir, fill, free := fullDisk(t)
	l := newTestLog(t, Options{Dir: dir})
	mustAppend(t, l, event("a", 0))
	fill()
	failed := 0
	for n := range 30 { // the last block of the file takes some more
		if err := l.Append(event("a", n)); err != nil {
			failed++
			if !errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), "no such file") {
				t.Fatal(err)
			}
		}
	}
	if failed == 0 {
		t.Fatal("the full disk was not noticed")
	}
	// The count is on the disk already, for whoever writes next.
	l.Close()
	if r := mustVerify(t, dir, 1); !strings.Contains(r.Losses[0].What, fmt.Sprint(failed)) {
		t.Errorf("%v, want %d lost", r.Losses, failed)
	}
	free()
	other := newTestLog(t, Options{Dir: dir})
	mustAppend(t, other, event("b", 1))
	mustAppend(t, other, event("b", 2))
	if r := mustVerify(t, dir, 1); !strings.Contains(r.Losses[0].What, fmt.Sprint(failed)) {
		t.Errorf("%v, want %d lost, said once", r.Losses, failed)
	}
}

func TestFolderMovedAwayWhileOpen(t *testing.T) {
	l := newTestLog(t, Options{})
	mustAppend(t, l, event("a", 1))
	if err := errors.Join(os.Rename(l.o.Dir, l.o.Dir+".old"), os.Mkdir(l.o.Dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, event("a", 2))
	if r := mustVerify(t, l.o.Dir, 0); r.Records != 2 {
		t.Errorf("%d records, want a log of its own", r.Records)
	}
	mustVerify(t, l.o.Dir+".old", 0)
}
