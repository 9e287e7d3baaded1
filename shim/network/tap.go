package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"golang.org/x/sys/unix"
)

// tapMTU is the largest MTU that the kernel allows a tap. A hypervisor offers
// the tap's MTU to the guest as the largest it may set, and the interface's is
// not known yet when the VM boots. The guest gets the real one at Wire.
const tapMTU = 65521

// tap is one network device of the VM: on the host a tap, in the guest a NIC
// with the address mac.
type tap struct {
	id    string
	name  string
	index int
	// mac is the guest's end's, hostMAC that of the device itself.
	mac, hostMAC net.HardwareAddr
	// file is nil once the VM has the device. The tap is not persistent: it
	// goes when the last descriptor of it is closed, and so with the VM.
	file *os.File
}

func (t *tap) nic() hypervisor.NIC {
	return hypervisor.NIC{ID: t.id, MAC: t.mac, Tap: t.file}
}

// release closes this process's descriptor.
func (t *tap) release() error {
	if t.file == nil {
		return nil
	}
	err := t.file.Close()
	t.file = nil
	return err
}

// newTap makes a tap in the namespace. number tells the taps of one VM apart.
func newTap(ns *Namespace, number int) (*tap, error) {
	t := &tap{id: "net" + strconv.Itoa(number), mac: randomMAC()}
	if err := ns.Do(t.open); err != nil {
		return nil, fmt.Errorf("make a tap: %w", err)
	}
	return t, nil
}

// open makes the device. It runs in the namespace: the kernel takes the
// opener's.
func (t *tap) open() (err error) {
	const path = "/dev/net/tun"
	// O_NONBLOCK stays with the description, and VMMs read until EAGAIN.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	req, err := unix.NewIfreq("nanoclaw%d")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	t.name = req.Name()
	// The tap is a wire, not an address of the namespace: without this the
	// kernel would give it one and speak on it.
	if err := disableIPv6(t.name); err != nil {
		return err
	}
	if t.index, t.hostMAC, err = linkUp(t.name, tapMTU); err != nil {
		return err
	}
	t.file = os.NewFile(uintptr(fd), path)
	return nil
}

func disableIPv6(link string) error {
	err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", link, "disable_ipv6"), []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		// A kernel without IPv6.
		return nil
	}
	return err
}

// randomMAC returns a locally administered unicast address.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	// crypto/rand does not fail: it ends the program instead.
	_, _ = rand.Read(mac)
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}
