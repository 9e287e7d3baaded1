package attempts

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The parts of io_uring's interface that the attempts take.
const (
	opOpenat    = 18
	opUnlinkat  = 36
	opMkdirat   = 37
	opSocket    = 45
	offsetSQ    = 0
	offsetSQEs  = 0x10000000
	enterEvents = 1
	enterWakeUp = 2
	setupSQPoll = 2
)

type uringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sq                                                   struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

// uring is a ring with room for one operation at a time.
type uring struct {
	fd          int
	params      uringParams
	rings, sqes []byte
}

func newURing(flags uint32) (*uring, error) {
	u := &uring{params: uringParams{flags: flags}}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&u.params)), 0)
	if errno != 0 {
		return nil, errno
	}
	u.fd = int(fd)
	p := &u.params
	size := max(int(p.sq.array)+int(p.sqEntries)*4, int(p.cq.cqes)+int(p.cqEntries)*16)
	var err error
	if u.rings, err = unix.Mmap(u.fd, offsetSQ, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	if u.sqes, err = unix.Mmap(u.fd, offsetSQEs, int(p.sqEntries)*64, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	return u, nil
}

// do has the ring carry out one operation on a path, or on none.
func (u *uring) do(op byte, fd int32, path string, offset uint64, length, opFlags uint32) (int, error) {
	p, sqe := &u.params, u.sqes[:64]
	sqe[0] = op
	*(*int32)(unsafe.Pointer(&sqe[4])) = fd
	*(*uint64)(unsafe.Pointer(&sqe[8])) = offset
	name := append([]byte(path), 0)
	if path != "" {
		*(*uint64)(unsafe.Pointer(&sqe[16])) = uint64(uintptr(unsafe.Pointer(&name[0])))
	}
	*(*uint32)(unsafe.Pointer(&sqe[24])) = length
	*(*uint32)(unsafe.Pointer(&sqe[28])) = opFlags
	*(*uint32)(unsafe.Pointer(&u.rings[p.sq.array])) = 0
	tail := (*uint32)(unsafe.Pointer(&u.rings[p.sq.tail]))
	atomic.StoreUint32(tail, *tail+1)
	flags := uintptr(enterEvents)
	if p.flags&setupSQPoll != 0 {
		flags |= enterWakeUp
	}
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), 1, 1, flags, 0, 0); errno != 0 {
		return 0, errno
	}
	result := *(*int32)(unsafe.Pointer(&u.rings[p.cq.cqes+8]))
	runtime.KeepAlive(name)
	if result < 0 {
		return 0, fmt.Errorf("io_uring: %w", unix.Errno(-result))
	}
	return int(result), nil
}

func (u *uring) close() { _ = unix.Close(u.fd) }

// byURing does one operation through a ring of its own, in which no system call names it.
func byURing(op byte, fd int32, path string, offset uint64, length, opFlags uint32) (int, error) {
	u, err := newURing(0)
	if err != nil {
		return 0, err
	}
	defer u.close()
	return u.do(op, fd, path, offset, length, opFlags)
}

func uringOpen(path string, flags int) (int, error) {
	return byURing(opOpenat, unix.AT_FDCWD, path, 0, 0o644, uint32(flags))
}

// uringPolled has a thread of the kernel's open the file.
func uringPolled(path string) error {
	u, err := newURing(setupSQPoll)
	if err != nil {
		return err
	}
	defer u.close()
	fd, err := u.do(opOpenat, unix.AT_FDCWD, path, 0, 0, unix.O_RDONLY)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func uringRead(path string) ([]byte, error) {
	fd, err := uringOpen(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}
