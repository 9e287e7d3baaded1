package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

var (
	// ErrHostNamespace is wrapped when a container asks for the network
	// namespace of the host.
	ErrHostNamespace = errors.New("this is the host's own network namespace")
	// ErrOccupied is wrapped when a given network namespace has a process in it
	// already.
	ErrOccupied = errors.New("the network namespace is in use by another process")
)

// nsfsMagic is what statfs reports for a file that is a namespace.
const nsfsMagic = 0x6e736673

// Identity tells one namespace from another, as long as both live.
type Identity struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// Identify returns the identity of the namespace at path.
func Identify(path string) (Identity, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Identity{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return Identity{st.Dev, st.Ino}, nil
}

// startedIn is the namespace this program was started in, asked before any
// thread of it can have gone elsewhere.
var startedIn, errStartedIn = Identify("/proc/self/ns/net")

// Namespace is a network namespace. It lives at least as long as it is open.
type Namespace struct {
	file *os.File
}

// NewNamespace makes an empty network namespace whose loopback is up, as runc
// would.
func NewNamespace() (*Namespace, error) {
	n := &Namespace{}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		f, err := openThreadNamespace()
		if err != nil {
			return err
		}
		if err := loopbackUp(); err != nil {
			return errors.Join(err, f.Close())
		}
		n.file = f
		return nil
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// DisableIPv6 turns IPv6 off for an interface of the namespace, or for "all" of
// them, or for those to come, which is "default".
func (n *Namespace) DisableIPv6(of string) error {
	return n.Do(func() error { return disableIPv6(of) })
}

// OpenNamespace opens the network namespace at path. It refuses the host's,
// and one in which a process runs: two network stacks behind one address
// would take each other's packets.
func OpenNamespace(path string) (*Namespace, error) {
	// O_NONBLOCK: the path is given from outside and may be a FIFO.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	n := &Namespace{file: f}
	if err := n.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("network namespace %s: %w", path, err), f.Close())
	}
	return n, nil
}

func (n *Namespace) check() error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(n.Fd(), &fs); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if fs.Type != nsfsMagic {
		return errors.New("this is not a namespace")
	}
	kind, err := unix.IoctlRetInt(n.Fd(), unix.NS_GET_NSTYPE)
	if err != nil {
		return fmt.Errorf("ask for the kind of namespace: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return errors.New("this is not a network namespace")
	}
	id, err := n.Identity()
	if err != nil {
		return err
	}
	if err := notHost(id); err != nil {
		return err
	}
	return notOccupied(id)
}

func notHost(id Identity) error {
	if errStartedIn != nil {
		return errStartedIn
	}
	if id == startedIn {
		return ErrHostNamespace
	}
	first, err := Identify("/proc/1/ns/net")
	if errors.Is(err, os.ErrPermission) {
		// Nested in a container, not even root may ask this. PID 1's namespace
		// is then still refused, as one in use.
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the host's network namespace: %w", err)
	}
	if id == first {
		return ErrHostNamespace
	}
	return nil
}

func notOccupied(id Identity) error {
	proc, err := os.Open("/proc")
	if err != nil {
		return err
	}
	names, err := proc.Readdirnames(-1)
	if err := errors.Join(err, proc.Close()); err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		// A process that ended meanwhile is not in the way.
		other, err := Identify("/proc/" + name + "/ns/net")
		if err == nil && other == id {
			return fmt.Errorf("%w (PID %s)", ErrOccupied, name)
		}
	}
	return nil
}

// Identity tells this namespace from others.
func (n *Namespace) Identity() (Identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(n.Fd(), &st); err != nil {
		return Identity{}, fmt.Errorf("stat: %w", err)
	}
	return Identity{st.Dev, st.Ino}, nil
}

// Fd is the namespace's descriptor, valid until Close.
func (n *Namespace) Fd() int { return int(n.file.Fd()) }

// Close lets go of the namespace. It goes on living while a process, a path or
// another descriptor holds it.
func (n *Namespace) Close() error { return n.file.Close() }

// Enter moves the calling goroutine's thread into the namespace and returns
// the way back. The goroutine must have locked itself to its thread, and must
// let that thread end if leave fails.
func (n *Namespace) Enter() (leave func() error, err error) {
	home, err := openThreadNamespace()
	if err != nil {
		return nil, err
	}
	if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
		return nil, errors.Join(fmt.Errorf("setns: %w", err), home.Close())
	}
	return func() error {
		err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
		return errors.Join(err, home.Close())
	}, nil
}

// Do runs f in the namespace, on a thread of its own. Sockets and devices that
// f opens stay in the namespace and may be used from anywhere.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a locked thread, in whatever namespace f takes it to, and
// brings the thread home. A thread that cannot come home ends with its
// goroutine. Bringing it home, rather than always ending it, is for the
// process's main thread: Go cannot end that one, and it would hold the
// namespace for ever.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := openThreadNamespace()
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		err = f()
		back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
		if back == nil {
			runtime.UnlockOSThread()
		}
		result <- errors.Join(err, home.Close())
	}()
	return <-result
}

func openThreadNamespace() (*os.File, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the thread's network namespace: %w", err)
	}
	return f, nil
}
