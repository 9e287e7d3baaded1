package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// headName is the file that says where the log ends. Its lock is the log's.
const headName = "head"

// headBytes is the head's length. It never changes, so that it can be written on
// a full disk, and it is less than a disk's sector, so that no crash leaves half
// of it.
const headBytes = 512

// head says where the log ended when it was last written: without it, nobody
// could tell that the last lines are missing.
type head struct {
	// Seq and Hash are of the last record that is known to be on the disk.
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
	// Lost is how many records could not be written since.
	Lost uint64 `json:"lost"`
	// Sum is the SHA-256 of the above.
	Sum string `json:"sum"`
}

var errHead = errors.New("the file \"" + headName + "\" is not as it was written")

func (h head) sum() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s %d", h.Seq, h.Hash, h.Lost))
	return hex.EncodeToString(sum[:])
}

func (h head) encode() ([]byte, error) {
	h.Sum = h.sum()
	data, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	data = append(data, bytes.Repeat([]byte(" "), headBytes-1-len(data))...)
	return append(data, '\n'), nil
}

// decodeHead accepts only what encode writes, to the last byte.
func decodeHead(data []byte) (head, error) {
	var h head
	if len(data) != headBytes || json.Unmarshal(data, &h) != nil || !isHash(h.Hash) {
		return head{}, errHead
	}
	if again, err := h.encode(); err != nil || !bytes.Equal(again, data) {
		return head{}, errHead
	}
	return h, nil
}

// readHead reads the head from its file; an empty one is no head yet.
func readHead(f *os.File) (h head, empty bool, err error) {
	buf := make([]byte, headBytes+1)
	n, err := readAt(f, buf, 0)
	if err != nil {
		return head{}, false, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if n == 0 {
		return head{}, true, nil
	}
	h, err = decodeHead(buf[:n])
	return h, false, err
}

func writeHead(f *os.File, h head) error {
	data, err := h.encode()
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), plain(err))
	}
	return nil
}
