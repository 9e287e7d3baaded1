package vmtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/hybridvsock"
)

// Suite runs the tests that every driver must pass.
func Suite(t *testing.T, d Driver) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Driver)
	}{
		{"power-off by the guest", powerOff},
		{"reset by the guest", reset},
		{"panic of the guest", guestPanics},
		{"VMM killed", killedVMM},
		{"stop", stop},
		{"stop by force", stopByForce},
		{"dial", dial},
		{"dial a booting guest", dialBooting},
		{"dial ends with the VM", dialEnds},
		{"vsock carries all bytes", vsockCarries},
		{"pause and resume", pauseAndResume},
		{"a stopped VMM is not waited for", stoppedVMM},
		{"console is bounded", consoleIsBounded},
		{"two CPUs", twoCPUs},
		{"grow", grow},
		{"two VMs at once", twoAtOnce},
		{"share", share},
		{"NICs come and go", nics},
		{"a NIC carries packets", packets},
		{"failed starts leave nothing", failedStarts},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, d) })
	}
	for _, name := range d.Helpers {
		t.Run(name+" killed", func(t *testing.T) { killedHelper(t, d, name) })
	}
}

func powerOff(t *testing.T, d Driver) {
	v := Boot(t, d, nil)
	v.Tell("poweroff")
	v.Ended(hypervisor.CauseGuest)
	if !strings.Contains(v.Console(), readyLine) {
		t.Errorf("the console lacks what the guest printed:\n%s", v.Console())
	}
}

func reset(t *testing.T, d Driver) {
	v := Boot(t, d, nil)
	v.Tell("reset")
	v.Ended(hypervisor.CauseReset)
	if n := strings.Count(v.Console(), readyLine); n != 1 {
		t.Errorf("the guest came up %d times", n)
	}
}

func guestPanics(t *testing.T, d Driver) {
	v := Boot(t, d, nil)
	v.Tell("panic")
	v.Ended(hypervisor.CausePanic)
	if !strings.Contains(v.Console(), "Kernel panic") {
		t.Errorf("the console lacks the panic:\n%s", v.Console())
	}
}

func killedVMM(t *testing.T, d Driver) {
	v := Boot(t, d, nil)
	if err := unix.Kill(v.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := v.Ended(hypervisor.CauseFailed); !strings.Contains(e.Detail, "signal: killed") {
		t.Errorf("detail %q", e.Detail)
	}
}

func killedHelper(t *testing.T, d Driver, name string) {
	v := Boot(t, d, nil)
	if err := unix.Kill(v.started.pid[name], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := v.Ended(hypervisor.CauseFailed); !strings.Contains(e.Detail, name+": signal: killed") {
		t.Errorf("detail %q", e.Detail)
	}
}

func stop(t *testing.T, d Driver) {
	v := Boot(t, d, nil)
	if err := v.Stop(Deadline(t)); err != nil {
		t.Fatal(err)
	}
	v.Ended(hypervisor.CauseStopped)
	if err := v.Stop(Deadline(t)); err != nil {
		t.Errorf("stopping again: %v", err)
	}
}

// A VMM that answers nothing is ended all the same.
func stopByForce(t *testing.T, d Driver) {
	v := Boot(t, d, nil)
	if err := unix.Kill(v.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := v.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	v.Ended(hypervisor.CauseStopped)
}

func dial(t *testing.T, d Driver) {
	v := Boot(t, d, nil)
	conn, err := v.Dial(Deadline(t), guestPort)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "echo"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "echo" {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := v.Dial(Deadline(t), guestPort+1); !errors.Is(err, hybridvsock.ErrRefused) {
		t.Errorf("a port without a listener: %v", err)
	}
}

// A guest that is still booting is waited for: nobody but the guest refuses.
func dialBooting(t *testing.T, d Driver) {
	c := Config(t)
	// A guest whose call nobody takes ends, maybe before it is dialled.
	l, err := hybridvsock.Listen(hypervisor.VsockPath(c.Dir), hostPort)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	v, err := d.Start(Deadline(t), c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { v.Kill(); <-v.Done() }()
	conn, err := v.Dial(Deadline(t), guestPort)
	for errors.Is(err, hybridvsock.ErrRefused) {
		time.Sleep(20 * time.Millisecond)
		conn, err = v.Dial(Deadline(t), guestPort)
	}
	if err != nil {
		v.Kill()
		<-v.Done()
		t.Fatalf("%v; %+v; console:\n%s", err, v.Exit(), hypervisor.ConsoleTail(c.Console, hypervisor.ConsoleLogged))
	}
	_ = conn.Close()
}

func dialEnds(t *testing.T, d Driver) {
	v, err := d.Start(Deadline(t), Config(t))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := v.Dial(context.Background(), guestPort)
		ended <- err
	}()
	v.Kill()
	<-v.Done()
	if err := <-ended; !errors.Is(err, hypervisor.ErrStopped) {
		t.Fatalf("got %v, want ErrStopped", err)
	}
}

// What is sent comes back, as the shim sends: less than a device's credit is on
// its way at any time.
func vsockCarries(t *testing.T, d Driver) {
	v := Boot(t, d, nil)
	conn, err := v.Dial(Deadline(t), guestPort)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	sent, got := make([]byte, 16<<10), make([]byte, 16<<10)
	for i := range 128 {
		_, _ = rand.Read(sent)
		if _, err := conn.Write(sent); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if _, err := io.ReadFull(conn, got); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if !bytes.Equal(sent, got) {
			t.Fatalf("round %d came back changed", i)
		}
	}
}

func (v *VM) ticks() int {
	v.t.Helper()
	return v.number("ticks")
}

// number is the guest's answer to a command.
func (v *VM) number(command string) int {
	v.t.Helper()
	n, err := strconv.Atoi(v.Ask(command))
	if err != nil {
		v.t.Fatal(err)
	}
	return n
}

func pauseAndResume(t *testing.T, d Driver) {
	v := Boot(t, d, nil)
	const paused = 10 * time.Second
	began := time.Now()
	before := v.ticks()
	for range 2 {
		if err := v.Pause(Deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(paused)
	for range 2 {
		if err := v.Resume(Deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
	ran := time.Duration(v.ticks()-before) * tick
	if most := time.Since(began) - paused/2; ran > most {
		t.Errorf("a guest that was paused for %v ran for %v of %v", paused, ran, time.Since(began))
	}
	time.Sleep(10 * tick)
	if now := v.ticks(); time.Duration(now-before)*tick <= ran {
		t.Errorf("a guest that was resumed stands still at %d ticks", now)
	}
}

// A call into a VMM that does not answer ends with its context, and the next
// one after it answers again succeeds.
func stoppedVMM(t *testing.T, d Driver) {
	v := Boot(t, d, nil)
	if err := unix.Kill(v.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := v.Pause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call into a stopped VMM: %v", err)
	}
	if err := unix.Kill(v.PID(), unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := v.Pause(Deadline(t)); err != nil {
		t.Fatal(err)
	}
	if err := v.Resume(Deadline(t)); err != nil {
		t.Fatal(err)
	}
	v.Tell("poweroff")
	v.Ended(hypervisor.CauseGuest)
}

func consoleIsBounded(t *testing.T, d Driver) {
	v := Boot(t, d, func(c *hypervisor.Config) {
		// An earlier VM's console: a guest takes minutes to write as much.
		earlier := bytes.Repeat([]byte("earlier\n"), (hypervisor.ConsoleLimit-flood/2)/8)
		if err := os.WriteFile(c.Console, earlier, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if got := v.Ask("flood"); got != "flooded" {
		t.Fatal(got)
	}
	v.Tell("poweroff")
	v.Ended(hypervisor.CauseGuest)
	st, err := os.Stat(v.config.Console)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > hypervisor.ConsoleLimit || st.Size() < hypervisor.ConsoleLimit/2 {
		t.Errorf("the output left a file of %d bytes", st.Size())
	}
	if !strings.Contains(v.Console(), "END OF FLOOD") {
		t.Error("the end of the output is not in the file")
	}
}

func twoCPUs(t *testing.T, d Driver) {
	v := Boot(t, d, func(c *hypervisor.Config) { c.CPUs = 2 })
	if got := v.Ask("cpus"); got != "2" {
		t.Errorf("the guest has %s CPUs", got)
	}
	v.Tell("poweroff")
	v.Ended(hypervisor.CauseGuest)
}

func grow(t *testing.T, d Driver) {
	var c hypervisor.Config
	v := Boot(t, d, func(b *hypervisor.Config) {
		b.MaxCPUs, b.MaxMemory = b.CPUs, b.Memory+3*hypervisor.GrowthStep
		if d.Isolates() {
			// One that is plugged into an emulated machine was not seen to arrive.
			b.MaxCPUs++
		}
		c = *b
	})
	before := v.number("memory")
	if got := v.number("online"); got != c.CPUs {
		t.Fatalf("the guest has %d CPUs, not %d", got, c.CPUs)
	}
	room := c.Memory + c.Growth()
	for _, to := range []hypervisor.Size{
		{CPUs: c.CPUs, Memory: room + hypervisor.GrowthStep},
		{CPUs: c.MaxCPUs + 1, Memory: c.Memory},
		{CPUs: c.CPUs, Memory: c.Memory - hypervisor.GrowthStep},
		{CPUs: c.CPUs, Memory: c.Memory + hypervisor.GrowthStep/2},
	} {
		if err := v.Grow(Deadline(t), to); err == nil {
			t.Errorf("a VM of %d CPUs and %d MiB has become one of %+v", c.CPUs, c.Memory>>20, to)
		}
	}
	for _, to := range []hypervisor.Size{
		{CPUs: c.CPUs, Memory: c.Memory + hypervisor.GrowthStep}, {CPUs: c.MaxCPUs, Memory: room}, {CPUs: c.MaxCPUs, Memory: room},
	} {
		if err := v.Grow(Deadline(t), to); err != nil {
			t.Fatal(err)
		}
		// Of memory that is plugged in, the kernel takes a little to keep account of it.
		more := int((to.Memory-c.Memory)>>10) * 9 / 10
		for began := time.Now(); v.number("memory") < before+more || v.number("online") != to.CPUs; time.Sleep(tick) {
			if time.Since(began) > patience {
				t.Fatalf("of %+v the guest has %d CPUs and %d KiB, %d before", to, v.number("online"), v.number("memory"), before)
			}
		}
	}
	v.Tell("poweroff")
	v.Ended(hypervisor.CauseGuest)
}

// Two VMs share a kernel, a context id and nothing else.
func twoAtOnce(t *testing.T, d Driver) {
	one, two := Boot(t, d, nil), Boot(t, d, nil)
	one.Tell("panic")
	one.Ended(hypervisor.CausePanic)
	two.ticks()
	two.Tell("poweroff")
	two.Ended(hypervisor.CauseGuest)
}

func share(t *testing.T, d Driver) {
	virtiofsd := "/usr/libexec/virtiofsd"
	if _, err := os.Stat(virtiofsd); err != nil {
		virtiofsd = Program(t, "virtiofsd")
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "from-host"), []byte("across"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(filepath.Dir(Config(t).Dir), "fs.sock")
	daemon := exec.Command(virtiofsd, "--socket-path="+socket, "--shared-dir="+folder, "--sandbox=none")
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	v := Boot(t, d, func(c *hypervisor.Config) { c.FSSocket, c.FSTag = socket, "test-share" })
	if got := v.Ask("share test-share"); got != "across" {
		t.Errorf("the guest read %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(folder, "from-guest")); err != nil || string(got) != "across" {
		t.Errorf("the guest wrote %q, %v", got, err)
	}
	v.Tell("poweroff")
	v.Ended(hypervisor.CauseGuest)
}

// Tap makes a tap device, as a NIC called id, and returns its name as well. It
// skips the test where that cannot be.
func Tap(t *testing.T, id string, last byte, mtu int) (hypervisor.NIC, string) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no tap devices here: ", err)
	}
	req, err := unix.NewIfreq("nctest%d")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		t.Skip("no tap devices here: ", err)
	}
	f := os.NewFile(uintptr(fd), "tap")
	t.Cleanup(func() { _ = f.Close() })
	return hypervisor.NIC{ID: id, MAC: net.HardwareAddr{2, 0, 0, 0, 0, last}, MTU: mtu, Tap: f}, req.Name()
}

// sees waits until the guest has exactly these NICs.
func (v *VM) sees(want string) {
	v.t.Helper()
	began := time.Now()
	for {
		got := v.Ask("nics")
		if got == want {
			v.t.Logf("%q after %v", want, time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Since(began) > patience {
			v.t.Fatalf("the guest has %q, want %q", got, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func nics(t *testing.T, d Driver) {
	cold, _ := Tap(t, "cold", 1, 1400)
	v := Boot(t, d, func(c *hypervisor.Config) { c.NICs = []hypervisor.NIC{cold} })
	v.sees("02:00:00:00:00:01/1400")
	hot, _ := Tap(t, "hot", 2, 0)
	if err := v.AddNIC(Deadline(t), hot); err != nil {
		t.Fatal(err)
	}
	v.sees("02:00:00:00:00:01/1400 02:00:00:00:00:02/1500")
	if err := v.AddNIC(Deadline(t), hot); err == nil {
		t.Error("a second NIC of the same name was added")
	}
	began := time.Now()
	if err := v.RemoveNIC(Deadline(t), "cold"); err != nil {
		t.Fatal(err)
	}
	t.Logf("removed after %v", time.Since(began).Round(time.Millisecond))
	v.sees("02:00:00:00:00:02/1500")
	if err := v.RemoveNIC(Deadline(t), "cold"); err == nil {
		t.Error("a NIC was removed twice")
	}
	again, _ := Tap(t, "cold", 1, 0)
	if err := v.AddNIC(Deadline(t), again); err != nil {
		t.Fatal("a name is not free again: ", err)
	}
	v.sees("02:00:00:00:00:02/1500 02:00:00:00:00:01/1500")
	if d.SpareNICs == 0 {
		return
	}
	for i := range d.SpareNICs - 1 {
		n, _ := Tap(t, fmt.Sprintf("more%d", i), byte(3+i), 0)
		if err := v.AddNIC(Deadline(t), n); err != nil {
			t.Fatal(err)
		}
	}
	n, _ := Tap(t, "toomany", 9, 0)
	if err := v.AddNIC(Deadline(t), n); err == nil || !strings.Contains(err.Error(), "slots") {
		t.Errorf("one NIC too many: %v", err)
	}
}

func packets(t *testing.T, d Driver) {
	nic, name := Tap(t, "eth0", 1, 0)
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr("198.51.100.1/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "198.51.100.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	v := Boot(t, d, func(c *hypervisor.Config) { c.NICs = []hypervisor.NIC{nic} })
	// What the caller does once the VM runs: the device must not need it.
	_ = nic.Tap.Close()
	if got := v.Ask("net 198.51.100.2/24 " + l.Addr().String()); got != "sent" {
		t.Fatal(got)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "over the tap\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

// Whatever is missing is named, and nothing that was started for it is left.
func failedStarts(t *testing.T, d Driver) {
	for name, test := range map[string]struct {
		change func(*hypervisor.Config)
		want   string
	}{
		"no kernel":       {func(c *hypervisor.Config) { c.Kernel = "/no/such/kernel" }, "/no/such/kernel"},
		"not a kernel":    {func(c *hypervisor.Config) { c.Kernel = c.Image }, "kernel"},
		"no image":        {func(c *hypervisor.Config) { c.Image = "/no/such/image" }, "/no/such/image"},
		"no share daemon": {func(c *hypervisor.Config) { c.FSSocket, c.FSTag = "/no/such/fs.sock", "x" }, "/no/such/fs.sock"},
		"no folder":       {func(c *hypervisor.Config) { c.Dir = "/no/such/folder" }, "/no/such/folder"},
	} {
		t.Run(name, func(t *testing.T) {
			var p processes
			c := Config(t)
			dir := c.Dir
			c.StartProcess = p.start
			test.change(&c)
			v, err := d.Start(Deadline(t), c)
			if err == nil {
				v.Kill()
				<-v.Done()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error does not name %s: %v", test.want, err)
			}
			t.Log(err)
			p.gone(t)
			NothingIn(t, dir)
		})
	}
}
