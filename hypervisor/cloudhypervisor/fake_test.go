package cloudhypervisor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/hypervisor/cloudhypervisor/internal/api"
	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmtest"
)

// The test binary plays Cloud Hypervisor where fakeMode is in its environment.
// Its value says how to misbehave; fakeLog names a file for what was asked.
const (
	fakeMode = "NANOCLAW_FAKE_CLOUD_HYPERVISOR"
	fakeLog  = "NANOCLAW_FAKE_LOG"
)

// Ports of the fake's guest: dialling one does what its name says.
const (
	portEcho = 1000 + iota
	portPowerOff
	portFault
	portPanic
	portReset
	portCrash
	portFlood
	portGarbage
	portHugeEvent
)

func TestMain(m *testing.M) {
	vmtest.Guest()
	if mode, ok := os.LookupEnv(fakeMode); ok {
		os.Exit(fake(mode))
	}
	os.Exit(m.Run())
}

// fakeVMM is the hypervisor as the driver sees it.
type fakeVMM struct {
	mode    string
	log     *os.File
	events  *os.File
	console *os.File
	vm      *api.VM
	nics    map[string]bool
	open    atomic.Int32 // connections
	state   string
	off     bool // the guest has powered itself off
	quit    chan int
}

func fake(mode string) int {
	signal.Ignore(syscall.SIGPIPE)
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		version := "v53.0.0"
		if mode == "knows no --no-shutdown" {
			version = "v51.2.0"
		}
		fmt.Printf("cloud-hypervisor %s\nMigration Protocol Versions: 0\n", version)
		return 0
	}
	if mode == "knows no --no-shutdown" {
		fmt.Fprintln(os.Stderr, "error: unexpected argument '--no-shutdown' found")
		return 2
	}
	if mode == "dies at start" {
		fmt.Fprintln(os.Stderr, strings.Repeat("x", 8<<10), "no such device: /dev/kvm")
		return 1
	}
	want := []string{"--api-socket", "fd=3", "--event-monitor", "fd=4", "--no-shutdown"}
	if got := os.Args[1:]; strings.Join(got, " ") != strings.Join(want, " ") {
		fmt.Fprintln(os.Stderr, "unexpected arguments:", got)
		return 1
	}
	log, err := os.OpenFile(os.Getenv(fakeLog), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	l, err := net.FileListener(os.NewFile(3, "api"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "fd 3 is no listener:", err)
		return 1
	}
	f := &fakeVMM{mode: mode, log: log, events: os.NewFile(4, "events"), quit: make(chan int, 1), nics: map[string]bool{}}
	f.event("vmm", "starting", "")
	go f.serve(l)
	return <-f.quit
}

// event writes as the real one does: indented, and followed by a blank line.
func (f *fakeVMM) event(source, name, id string) {
	e := map[string]any{
		"timestamp": map[string]int{"secs": 1, "nanos": 2},
		"source":    source, "event": name, "properties": nil,
	}
	if id != "" {
		e["properties"] = map[string]string{"id": id}
	}
	text, _ := json.MarshalIndent(e, "", "  ")
	_, _ = f.events.Write(append(text, "\n\n"...))
}

func (f *fakeVMM) serve(l net.Listener) {
	doc, err := openapi3.NewLoader().LoadFromData([]byte(os.Getenv("NANOCLAW_FAKE_OPENAPI")))
	if err == nil {
		err = doc.Validate(context.Background())
	}
	if err != nil {
		f.fail("the document:", err)
		return
	}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		f.fail("the document:", err)
		return
	}
	for {
		c, err := l.Accept()
		if err != nil {
			f.fail("accept:", err)
			return
		}
		conn := c.(*net.UnixConn)
		// Ten at most, and the server closes none of them.
		if f.open.Add(1) > 10 {
			respond(conn, http.StatusServiceUnavailable, nil)
			_ = conn.Close()
			continue
		}
		req, files, err := receive(conn)
		if err != nil {
			f.fail("receive:", err)
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			f.fail("receive:", err)
			return
		}
		path := strings.TrimPrefix(req.URL.Path, "/api/v1/")
		_, _ = fmt.Fprintf(f.log, "%s %s files=%d %s\n", req.Method, path, len(files), body)
		var status int
		var answer []byte
		if err := allowed(router, req, body); err != nil {
			status, answer = 400, errorBody("not in the document", err.Error())
		} else {
			status, answer = f.handle(path, body, files)
		}
		for _, file := range files {
			_ = file.Close()
		}
		if status != 0 {
			respond(conn, status, answer)
			go func() {
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
				f.open.Add(-1)
			}()
		} else {
			_ = conn.Close()
		}
		if path == "vmm.shutdown" && status == 200 {
			f.end()
		}
	}
}

func (f *fakeVMM) fail(a ...any) {
	fmt.Fprintln(os.Stderr, a...)
	f.quit <- 1
}

// allowed refuses what the document does not hold, and what the real server
// cannot read.
func allowed(router routers.Router, req *http.Request, body []byte) error {
	if req.ContentLength < 0 {
		return fmt.Errorf("no Content-Length: %v", req.TransferEncoding)
	}
	req.URL.Scheme, req.URL.Host, req.Host = "http", "localhost", "localhost"
	req.Body = io.NopCloser(bytes.NewReader(body))
	route, params, err := router.FindRoute(req)
	if err != nil {
		return err
	}
	if route.Operation.RequestBody == nil && len(body) > 0 {
		return fmt.Errorf("%d bytes on a call that takes none", len(body))
	}
	return openapi3filter.ValidateRequest(context.Background(), &openapi3filter.RequestValidationInput{
		Request: req, PathParams: params, Route: route,
	})
}

// receive reads one request and the files on its first bytes.
func receive(conn *net.UnixConn) (*http.Request, []*os.File, error) {
	first, oob := make([]byte, 1024), make([]byte, 256)
	n, oobn, _, _, err := conn.ReadMsgUnix(first, oob)
	if err != nil {
		return nil, nil, err
	}
	var files []*os.File
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, nil, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "tap"))
		}
	}
	req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(first[:n]), conn)))
	return req, files, err
}

// respond answers as the real one does: without a reason, and with no length
// where there can be no body.
func respond(w io.Writer, status int, body []byte) {
	_, _ = fmt.Fprintf(w, "HTTP/1.1 %d \r\nServer: fake\r\nConnection: keep-alive\r\n", status)
	if status != 204 {
		_, _ = fmt.Fprintf(w, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	_, _ = fmt.Fprint(w, "\r\n")
	_, _ = w.Write(body)
}

func errorBody(messages ...string) []byte {
	b, _ := json.Marshal(messages)
	return b
}

// handle answers an allowed request; status 0 answers nothing.
func (f *fakeVMM) handle(path string, body []byte, files []*os.File) (int, []byte) {
	switch f.mode {
	case "wedged at " + path:
		time.Sleep(time.Hour)
	case "slow at " + path:
		time.Sleep(300 * time.Millisecond)
	case "dies at " + path:
		fmt.Fprintln(os.Stderr, "thread 'vmm' gave up")
		f.quit <- 1
		time.Sleep(time.Hour)
	case "refuses " + path:
		return 500, errorBody("Error from API", "The VM could not boot", "Cannot open disk path")
	case "garbage at " + path:
		return 200, []byte("}{")
	case "too much at " + path:
		return 200, bytes.Repeat([]byte(" "), maxBody+1)
	case "hangs up at " + path:
		return 0, nil
	}
	if (path == "vm.add-net") != (len(files) == 1) {
		return 400, errorBody(fmt.Sprintf("%d files on %s", len(files), path))
	}
	switch path {
	case "vmm.ping":
		version := "53.0.0"
		if f.mode == "old" {
			version = "51.1.0"
		}
		return 200, []byte(`{"build_version":"v` + version + `","version":"` + version + `","pid":1,"features":["io_uring","kvm"]}`)
	case "vm.create":
		return f.create(body)
	case "vm.add-net":
		return f.addNet(body, files[0])
	case "vm.boot":
		return f.boot()
	case "vm.info":
		if f.vm == nil {
			return 404, errorBody("Error from API", "The VM info is not available", "VM is not created")
		}
		return 200, []byte(`{"state":"` + f.state + `","config":{}}`)
	case "vm.pause", "vm.resume":
		next := map[string]string{"vm.pause": "Paused", "vm.resume": "Running"}[path]
		if f.state == next {
			return 500, errorBody("Error from API", "The VM could not be paused", "Cannot pause VM",
				"Failed to pause migratable component", "Invalid transition: InvalidStateTransition("+next+", "+next+")")
		}
		f.state = next
		return 204, nil
	case "vm.resize":
		return f.resize(body)
	case "vm.remove-device":
		var r api.Removal
		_ = json.Unmarshal(body, &r)
		if !f.nics[r.Id] {
			return 500, errorBody("Error from API", "The device could not be removed from the VM", "Error from device manager",
				"Failed to find device corresponding to the given identifier: "+r.Id)
		}
		if f.mode == "guest keeps the device" {
			return 204, nil
		}
		delete(f.nics, r.Id)
		time.AfterFunc(50*time.Millisecond, func() { f.event("vm", "device-removed", r.Id) })
		return 204, nil
	case "vmm.shutdown":
		return 200, nil
	}
	return 404, errorBody("Not Found")
}

func (f *fakeVMM) resize(body []byte) (int, []byte) {
	var r api.Resize
	if err := json.Unmarshal(body, &r); err != nil {
		return 400, errorBody(err.Error())
	}
	if f.state != "Running" {
		return 500, errorBody("Error from API", "The VM could not be resized", "VM is not running")
	}
	switch room := f.vm.Memory.HotplugSize; {
	case r.DesiredVcpus != nil && *r.DesiredVcpus > f.vm.Cpus.MaxVcpus,
		r.DesiredRam != nil && (room == nil || *r.DesiredRam > f.vm.Memory.Size+*room):
		return 500, errorBody("Error from API", "The VM could not be resized", "Error resizing VM")
	}
	return 204, nil
}

func (f *fakeVMM) create(body []byte) (int, []byte) {
	var vm api.VM
	if err := json.Unmarshal(body, &vm); err != nil {
		return 400, errorBody(err.Error())
	}
	if f.vm != nil {
		return 500, errorBody("Error from API", "The VM could not be created", "VM is already created")
	}
	console, err := os.Create(vm.Console.File)
	if err != nil {
		return 500, errorBody("Error creating console device", err.Error())
	}
	f.vm, f.console, f.state = &vm, console, "Created"
	return 204, nil
}

// boot is when the devices are made, the vsock device's socket among them.
func (f *fakeVMM) boot() (int, []byte) {
	if f.vm == nil {
		return 404, errorBody("Error from API", "The VM could not boot", "VM config is missing")
	}
	f.event("vm", "booting", "")
	guest, err := net.Listen("unix", f.vm.Vsock.Socket)
	if err != nil {
		return 500, errorBody("Error from API", "The VM could not boot", err.Error())
	}
	f.state = "Running"
	_, _ = f.console.WriteString("guest says hello\n")
	go f.guest(guest)
	f.event("vm", "booted", "")
	return 204, nil
}

func (f *fakeVMM) addNet(body []byte, tap *os.File) (int, []byte) {
	// The real one makes ioctls on it; here it is a pipe to be written to.
	if _, err := tap.WriteString("here"); err != nil {
		return 500, errorBody(err.Error())
	}
	var n api.NIC
	_ = json.Unmarshal(body, &n)
	if f.nics[n.Id] {
		return 500, errorBody("Error from API", "The network device could not be added to the VM",
			"Identifier "+n.Id+" is not unique")
	}
	f.nics[n.Id] = true
	if f.state == "Created" {
		return 204, nil
	}
	return 200, []byte(`{"id":"` + n.Id + `","bdf":"0000:00:05.0"}`)
}

// powerOff is the guest's end, after which the hypervisor waits to be asked.
func (f *fakeVMM) powerOff() {
	f.off = true
	f.event("vm", "shutdown", "")
}

// end is the orderly end of the hypervisor.
func (f *fakeVMM) end() {
	if !f.off {
		f.event("vm", "shutdown", "")
	}
	f.event("vm", "deleted", "")
	f.event("vmm", "shutdown", "")
	if f.mode != "lingers" {
		f.quit <- 0
	}
}

func (f *fakeVMM) guest(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		var port int
		if _, err := fmt.Fscanf(conn, "CONNECT %d\n", &port); err != nil {
			continue
		}
		if port == portEcho {
			_, _ = fmt.Fprintf(conn, "OK %d\n", 1<<30)
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
			continue
		}
		switch port {
		case portPowerOff:
			f.powerOff()
		case portFault:
			fmt.Fprintln(os.Stderr, "thread 'vcpu0' panicked")
			f.end()
		case portPanic:
			f.event("guest", "panic", "")
			f.event("vm", "rebooting", "")
		case portReset:
			f.event("vm", "rebooting", "")
		case portCrash:
			fmt.Fprintln(os.Stderr, strings.Repeat("e", 8<<10), "VmmThread failed")
			f.quit <- 3
		case portFlood:
			for i := range 100_000 {
				_, _ = fmt.Fprintf(f.console, "line %d of a guest that prints without end\n", i)
			}
			_, _ = f.console.WriteString("last words\n")
			f.powerOff()
		case portGarbage:
			_, _ = f.events.WriteString("}}}")
		case portHugeEvent:
			_, _ = f.events.WriteString(`{"source":"` + strings.Repeat("a", 2*maxEvent) + `"}`)
		}
		_ = conn.Close()
	}
}
