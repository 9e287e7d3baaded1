package choose

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// verdicts keeps what trials found, in one small file that only root writes.
type verdicts struct {
	dir string
}

// verdict is one trial's outcome. Problem is empty where the candidate works.
type verdict struct {
	Key     string `json:"key"`
	Problem string `json:"problem"`
}

// maxVerdict bounds the file, in bytes.
const maxVerdict = 64 << 10

// verdictKey identifies what a trial was made with: this boot of the host, and
// the programs and files that took part.
func verdictKey(files ...string) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	parts := []string{strings.TrimSpace(string(boot))}
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
// start at once one makes it and the others wait.
func (v verdicts) get(key string, trial func() string) (problem string, err error) {
	if err := os.MkdirAll(v.dir, 0o711); err != nil {
		return "", err
	}
	path := filepath.Join(v.dir, "kvm-verdict.json")
	if kept, ok := read(path, key); ok {
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
	if kept, ok := read(path, key); ok {
		return kept.Problem, nil
	}
	problem = trial()
	data, err := json.Marshal(verdict{Key: key, Problem: problem})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return "", fmt.Errorf("keep the verdict on KVM: %w", err)
	}
	return problem, os.Rename(path+".new", path)
}

func read(path, key string) (verdict, bool) {
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxVerdict {
		return verdict{}, false
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return verdict{}, false
	}
	var v verdict
	if json.Unmarshal(data, &v) != nil || v.Key != key {
		return verdict{}, false
	}
	return v, true
}
