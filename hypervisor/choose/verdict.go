package choose

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// verdicts keeps what the trials of one candidate found, in a small file that
// only we can write.
type verdicts struct {
	dir  string
	name string
	// again makes the trial whatever is kept.
	again bool
}

// verdict is one trial's outcome. Problem is empty where the candidate works.
type verdict struct {
	Key     string `json:"key"`
	Problem string `json:"problem"`
	// Until is when a passing problem is looked at again; zero is never.
	Until time.Time `json:"until,omitzero"`
}

// passes is how long a passing problem is believed.
const passes = 10 * time.Minute

// holds reports whether the verdict is about key and still believed at now. A
// clock that was set back does not lengthen that.
func (v verdict) holds(key string, now time.Time) bool {
	left := v.Until.Sub(now)
	return v.Key == key && (v.Until.IsZero() || left > 0 && left <= passes)
}

// maxVerdict bounds the file, in bytes.
const maxVerdict = 64 << 10

// verdictKey identifies what a trial was made with: this boot of the host, its
// kernel, and the programs and files that took part. A file is known by its
// size and time, so that asking costs no reading of it.
func verdictKey(files ...string) (string, error) {
	var parts []string
	for _, name := range []string{"random/boot_id", "osrelease"} {
		b, err := os.ReadFile(filepath.Join("/proc/sys/kernel", name))
		if err != nil {
			return "", err
		}
		parts = append(parts, strings.TrimSpace(string(b)))
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			return "", err
		}
		parts = append(parts, fmt.Sprintf("%s %d %d", name, info.Size(), info.ModTime().UnixNano()))
	}
	return strings.Join(parts, "|"), nil
}

// get returns the kept verdict of key, or makes the trial. Of several shims that
// start at once one makes it and the others wait. A trial that found nothing
// out leaves no verdict.
func (v verdicts) get(key string, trial func() (finding, error)) (problem string, err error) {
	if err := os.MkdirAll(v.dir, 0o711); err != nil {
		return "", err
	}
	path := filepath.Join(v.dir, "kvm-verdict-"+v.name+".json")
	if kept, ok := read(path, key); ok && !v.again {
		return kept.Problem, nil
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("wait for another trial of KVM: %w", err)
	}
	if kept, ok := read(path, key); ok && !v.again {
		return kept.Problem, nil
	}
	found, err := trial()
	if err != nil {
		return "", err
	}
	fresh := verdict{Key: key, Problem: found.problem}
	if found.passing {
		fresh.Until = time.Now().Add(passes)
	}
	data, err := json.Marshal(fresh)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return "", fmt.Errorf("keep the verdict on KVM: %w", err)
	}
	return found.problem, os.Rename(path+".new", path)
}

// read returns the verdict in the file if it is ours and about key.
func read(path, key string) (verdict, bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return verdict{}, false
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 ||
		info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return verdict{}, false
	}
	data, err := io.ReadAll(io.LimitReader(f, maxVerdict))
	if err != nil {
		return verdict{}, false
	}
	v, err := parse(data)
	return v, err == nil && v.holds(key, time.Now())
}

// parse is strict: what we did not write is not believed.
func parse(data []byte) (verdict, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var v verdict
	if err := d.Decode(&v); err != nil {
		return verdict{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return verdict{}, errors.New("more than one value")
	}
	if v.Key == "" {
		return verdict{}, errors.New("no key")
	}
	return v, nil
}
