// Package signoff keeps the record that a person has reviewed the policy file as
// it is: its digest, who, and when. A file that was changed since, be it by a
// comment, has not been reviewed.
//
// The record is root's: a file beside the policy, which nobody else can write
// and no container can be given. It is a note between administrators and no
// proof: whoever is root can write it, in anybody's name.
package signoff

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/internal/printable"
)

// Baseline stands for the digest where there is no policy file: that there is
// none can be reviewed too.
const Baseline = "baseline"

const (
	maxBytes = 16 << 10
	// maxName bounds a person's name.
	maxName = 200
)

// Record is one sign-off.
type Record struct {
	Policy string `json:"policy"`
	Digest string `json:"digest"`
	// By is the name that was given, Login the user that the session began as,
	// by the kernel's account, where there is one.
	By    string    `json:"by"`
	Login string    `json:"login,omitempty"`
	At    time.Time `json:"at"`
}

// Digest is what a sign-off is of; f is nil where there is no file.
func Digest(f *annotations.File) string {
	if f == nil {
		return Baseline
	}
	return f.Digest()
}

// Write replaces the record at path.
func Write(path string, r Record) error {
	if os.Geteuid() != 0 {
		return errors.New("only root signs the policy off; run it as root")
	}
	return write(path, r)
}

func write(path string, r Record) (err error) {
	if r.By = printable.Text(r.By); r.By == "" || len(r.By) > maxName {
		return fmt.Errorf("who signs has a name of 1 to %d bytes", maxName)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // /etc/nanoclaw is readable
		return fmt.Errorf("record the sign-off: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".")
	if err != nil {
		return fmt.Errorf("record the sign-off: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	// CreateTemp's mode is that of a private file.
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("record the sign-off: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("record the sign-off: %w", err)
	}
	return nil
}

// ErrNone is returned where nobody has signed.
var ErrNone = errors.New("nobody has signed the policy off")

// Read reads the record at path. One that others than root can write is none.
func Read(path string) (Record, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return Record{}, ErrNone
	}
	if err != nil {
		return Record{}, fmt.Errorf("read the sign-off: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }() // it was read from only
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Record{}, fmt.Errorf("examine the sign-off %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o077 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return Record{}, fmt.Errorf("the sign-off %s is not a file that is root's alone: who else has written it is not known", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return Record{}, fmt.Errorf("read the sign-off: %w", err)
	}
	return parse(path, data)
}

func parse(path string, data []byte) (Record, error) {
	var r Record
	if len(data) > maxBytes {
		return r, fmt.Errorf("the sign-off %s is over %d bytes", path, maxBytes)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("the sign-off %s: %w", path, err)
	}
	if r.Digest == "" || r.By == "" || len(r.By) > maxName || printable.Text(r.By) != r.By || r.At.IsZero() {
		return Record{}, fmt.Errorf("the sign-off %s lacks the digest, who signed, or when", path)
	}
	return r, nil
}
