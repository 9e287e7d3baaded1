package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/choose"
)

// driver is a hypervisor by name alone.
type driver struct {
	hypervisor.Hypervisor
	name     string
	isolates bool
}

func (d driver) Name() string   { return d.name }
func (d driver) Isolates() bool { return d.isolates }

// bench is a host on which containers can start, in a folder of its own.
type bench struct {
	*testing.T
	Host
	dir      string
	settings map[string]string // of the runtime's configuration
	daemon   string            // Docker's
	info     string            // what its daemon answers
	report   choose.Report
	network  error
	gateway  error
	hidden   error
	choice   choose.Config // what the choice was asked with
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, dir: t.TempDir()}
	said := map[string]string{
		"virtiofsd": "virtiofsd 1.14.0", "qemu": "QEMU emulator version 11.0.2 (Debian 1:11.0.2+ds-1)",
		"vsock": "vhost-device-vsock 0.3.0", "ch": "cloud-hypervisor v53.0.0",
	}
	b.settings = map[string]string{}
	for key, name := range map[string]string{"virtiofsd": "virtiofsd", "qemu": "qemu", "vhost_device_vsock": "vsock", "cloud_hypervisor": "ch"} {
		b.settings[key] = b.script(name, "echo '"+said[name]+"'")
	}
	b.settings["kernel"] = b.file("vmlinux", kernel())
	b.settings["image"] = b.file("guest.img", string(append(make([]byte, erofsOffset), erofsMagic...)))
	b.daemon = `{"runtimes": {"nanoclaw": {"runtimeType": "` + b.script("shim", "") + `", "options": {"ConfigPath": "` + filepath.Join(b.dir, "config.yaml") + `"}}}}`
	b.info = `{"Runtimes": {"runc": {}, "nanoclaw": {}}}`
	b.report = choose.Report{
		Candidates: []choose.Candidate{{Name: "cloud-hypervisor", Outcome: choose.Chosen}, {Name: "qemu with KVM", Outcome: choose.Untried}},
		Chosen:     driver{name: "cloud-hypervisor", isolates: true},
	}
	return b
}

// kernel is an ELF file for x86-64 that is nothing but a note of a PVH entry.
func kernel() string {
	note := "\x04\x00\x00\x00\x04\x00\x00\x00\x12\x00\x00\x00Xen\x00\x00\x00\x00\x01"
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	b[16], b[18], b[20], b[32], b[52], b[54], b[56] = 2, 62, 1, 64, 64, 56, 1
	b[64], b[64+8], b[64+32], b[64+40] = 4, byte(len(b)), byte(len(note)), byte(len(note))
	return string(b) + note
}

func (b *bench) file(name, content string) string {
	b.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

func (b *bench) script(name, text string) string {
	b.Helper()
	path := b.file(name, "#!/bin/sh\n"+text+"\n")
	if err := os.Chmod(path, 0o700); err != nil {
		b.Fatal(err)
	}
	return path
}

// examine sets the host up as the fields say and looks at it.
func (b *bench) examine() Report {
	b.Helper()
	var lines []string
	for key, value := range b.settings {
		lines = append(lines, key+": "+value)
	}
	b.file("config.yaml", strings.Join(lines, "\n"))
	b.DaemonJSON = b.file("daemon.json", b.daemon)
	b.DockerSocket = b.serve()
	b.root = true
	b.choose = func(_ context.Context, c choose.Config) choose.Report { b.choice = c; return b.report }
	b.Host.network = func() error { return b.network }
	b.Host.gateway = func() error { return b.gateway }
	b.Host.hidden = func() error { return b.hidden }
	return b.Examine(b.Context())
}

// serve answers as Docker's daemon, unless info is empty.
func (b *bench) serve() string {
	b.Helper()
	// t.TempDir's paths may be too long for sockets.
	dir, err := os.MkdirTemp("", "doctor")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	if b.info == "" {
		return path
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(b.info)) })}
	b.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(l) }()
	return path
}

// item finds a finding.
func item(t *testing.T, r Report, section, name string) Item {
	t.Helper()
	for _, s := range r.Sections {
		for _, i := range s.Items {
			if s.Name == section && i.Name == name {
				return i
			}
		}
	}
	t.Fatalf("nothing is said of %q in %q: %+v", name, section, r)
	return Item{}
}

func TestAHostThatIsReady(t *testing.T) {
	b := newBench(t)
	r := b.examine()
	if !r.Ready || r.Isolation != Hardware || r.Hypervisor != "cloud-hypervisor" {
		t.Errorf("got %+v", r)
	}
	// Docker's configuration names the runtime's, and that is what is looked at.
	if b.choice.CloudHypervisor != b.settings["cloud_hypervisor"] || b.choice.File != filepath.Join(b.dir, "config.yaml") {
		t.Errorf("chosen by %+v", b.choice)
	}
	for _, s := range r.Sections {
		for _, i := range s.Items {
			if i.Status == Problem || i.Status == Warning {
				t.Errorf("%s: %+v", s.Name, i)
			}
		}
	}
	if got := item(t, r, "Programs", "cloud-hypervisor").Found; !strings.HasSuffix(got, "/ch: cloud-hypervisor v53.0.0") {
		t.Errorf("got %q", got)
	}
}

func TestWhatIsWrongIsNamedWithWhatToDo(t *testing.T) {
	useQEMU := func(b *bench) { b.report.Chosen = driver{name: "qemu", isolates: true} }
	for name, c := range map[string]struct {
		spoil         func(*bench)
		section, item string
		found         string
	}{
		"configuration": {func(b *bench) { b.settings["hypervizor"] = "x" }, "Configuration", "file", "hypervizor"},
		"no hypervisor": {func(b *bench) { b.report = choose.Report{} }, "Hypervisor", "none can be used", "no container"},
		"no virtiofsd":  {func(b *bench) { b.settings["virtiofsd"] = "/none" }, "Programs", "virtiofsd", "/none was not found"},
		"C virtiofsd": {func(b *bench) {
			b.settings["virtiofsd"] = b.script("v", "echo virtiofsd version 7.2.22; echo using FUSE kernel interface version 7.36")
		}, "Programs", "virtiofsd", "QEMU's own"},
		"old virtiofsd":     {func(b *bench) { b.settings["virtiofsd"] = b.script("v", "echo virtiofsd 1.9.1") }, "Programs", "virtiofsd", "1.9 is too old, 1.10"},
		"broken program":    {func(b *bench) { b.settings["virtiofsd"] = b.script("v", "echo no such library >&2; exit 127") }, "Programs", "virtiofsd", "no such library"},
		"mute program":      {func(b *bench) { b.settings["virtiofsd"] = b.script("v", "") }, "Programs", "virtiofsd", "version was expected"},
		"old Cloud H.":      {func(b *bench) { b.settings["cloud_hypervisor"] = b.script("c", "echo cloud-hypervisor v51.1") }, "Programs", "cloud-hypervisor", "too old"},
		"old QEMU":          {func(b *bench) { useQEMU(b); b.settings["qemu"] = b.script("q", "echo QEMU emulator version 7.2.22") }, "Programs", "qemu", "too old"},
		"no vsock":          {func(b *bench) { useQEMU(b); b.settings["vhost_device_vsock"] = "/none" }, "Programs", "vhost-device-vsock", "not found"},
		"no kernel":         {func(b *bench) { b.settings["kernel"] = "/none" }, "Guest", "kernel", "/none cannot be read"},
		"kernel is none":    {func(b *bench) { b.settings["kernel"] = b.settings["image"] }, "Guest", "kernel", "no uncompressed kernel"},
		"no image":          {func(b *bench) { b.settings["image"] = "/none" }, "Guest", "image", "/none"},
		"image is none":     {func(b *bench) { b.settings["image"] = b.settings["kernel"] }, "Guest", "image", "no EROFS"},
		"network":           {func(b *bench) { b.network = errors.Join(errors.New("a"), errors.New("CONFIG_B is missing")) }, "Network", "kernel features", "a"},
		"Docker's is wrong": {func(b *bench) { b.daemon = "{" }, "Docker", "configuration", "unexpected end"},
		"not registered":    {func(b *bench) { b.daemon, b.info = "{}", "" }, "Docker", "configuration", "does not register"},
		"not reloaded":      {func(b *bench) { b.info = `{"Runtimes":{}}` }, "Docker", "daemon", "does not know"},
		"no shim":           {func(b *bench) { b.daemon = `{"runtimes":{"nanoclaw":{"runtimeType":"/none/shim"}}}` }, "Docker", "shim", "/none/shim cannot be run"},
		"a name for a path": {func(b *bench) { b.daemon = `{"runtimes":{"nanoclaw":{"runtimeType":"sh"}}}` }, "Docker", "shim", "neither a path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			c.spoil(b)
			r := b.examine()
			got := item(t, r, c.section, c.item)
			if r.Ready || got.Status != Problem || !strings.Contains(got.Found, c.found) || got.Fix == "" {
				t.Errorf("ready %v, %+v", r.Ready, got)
			}
			if text := r.Conclusion(); !strings.HasPrefix(text, "Containers cannot start") {
				t.Errorf("concluded %q", text)
			}
		})
	}
}

func TestWhatIsNotNeededIsNoProblem(t *testing.T) {
	b := newBench(t)
	b.settings["qemu"], b.settings["vhost_device_vsock"] = "/none", "/none"
	if r := b.examine(); !r.Ready || item(t, r, "Programs", "qemu").Status != Unused {
		t.Errorf("got %+v", r)
	}
	b = newBench(t)
	b.daemon, b.Config = "", filepath.Join(b.dir, "config.yaml") // registered by a flag of the daemon's
	if r := b.examine(); !r.Ready || item(t, r, "Docker", "configuration").Status != Unused {
		t.Errorf("got %+v", r)
	}
	b = newBench(t)
	b.info = "" // Docker is stopped
	if r := b.examine(); !r.Ready || item(t, r, "Docker", "daemon").Status != Warning {
		t.Errorf("got %+v", r)
	}
}

func TestEmulationIsNamedAsNoIsolation(t *testing.T) {
	b := newBench(t)
	b.report = choose.Report{
		KVM:        "/dev/kvm is absent",
		Candidates: []choose.Candidate{{Name: "qemu with KVM", Outcome: choose.Unusable, Problem: "x"}, {Name: "qemu without KVM", Outcome: choose.Chosen}},
		Chosen:     driver{name: "qemu (emulation)"},
	}
	r := b.examine()
	got := item(t, r, "Hypervisor", "qemu without KVM")
	if !r.Ready || r.Isolation != Emulation || got.Status != Warning || !strings.Contains(got.Found, "NO ISOLATION") {
		t.Errorf("got %+v, %+v", r, got)
	}
	if !strings.Contains(r.Conclusion(), "NOT ISOLATED") {
		t.Errorf("concluded %q", r.Conclusion())
	}
}

func TestRulesAboutTheNetworkThatCannotBeKept(t *testing.T) {
	b := newBench(t)
	b.examine()
	b.gateway = errors.New("CONFIG_NFT_NAT is missing")
	r := b.Examine(t.Context())
	i := item(t, r, "Network", "rules about the network")
	if !r.Ready || i.Status != Warning || !strings.Contains(i.Found, "CONFIG_NFT_NAT") {
		t.Errorf("%+v, ready: %v", i, r.Ready)
	}
}

func TestPathsThatCannotBeHidden(t *testing.T) {
	b := newBench(t)
	if i := item(t, b.examine(), "Files", "hidden paths"); i.Status != OK {
		t.Errorf("%+v", i)
	}
	b.hidden = errors.New("open /dev/fuse: no such file or directory")
	r := b.Examine(t.Context())
	i := item(t, r, "Files", "hidden paths")
	if !r.Ready || i.Status != Warning || !strings.Contains(i.Found, "/dev/fuse") || !strings.Contains(i.Fix, "modprobe fuse") {
		t.Errorf("%+v, ready: %v", i, r.Ready)
	}
}

func TestWithoutRootNothingIsPromised(t *testing.T) {
	b := newBench(t)
	b.examine()
	b.root = false
	b.Host.network = func() error { t.Error("the network was tried"); return nil }
	b.Host.gateway = b.Host.network
	b.Host.hidden = func() error { t.Error("FUSE was tried"); return nil }
	if r := b.Examine(t.Context()); r.Ready || item(t, r, "Configuration", "rights").Status != Problem {
		t.Errorf("got %+v", r)
	}
}

func TestPrint(t *testing.T) {
	r := Report{Isolation: NoVM, Sections: []Section{{Name: "A", Items: []Item{
		{Name: "one", Status: OK, Found: "fine"}, {Name: "two", Status: Problem, Found: "bad\nindeed", Fix: "mend"},
	}}}}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	want := `A
  ok       one                  fine
  PROBLEM  two                  bad
                                indeed
                                => mend

Containers cannot start: 1 problem.
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestTheReportIsJSON(t *testing.T) {
	text, err := json.Marshal(newBench(t).examine())
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Ready    bool
		Sections []struct{ Items []struct{ Status string } }
	}
	if err := json.Unmarshal(text, &back); err != nil || !back.Ready || len(back.Sections) != 7 {
		t.Errorf("%v: %s", err, text)
	}
}

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]version{
		"virtiofsd 1.14.0": {1, 14}, "cloud-hypervisor v53.0": {53, 0}, "vhost-device-vsock 0.3.0\nmore 9.9": {0, 3},
		"QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)": {8, 2},
	} {
		if got, err := parseVersion(text); err != nil || got.version != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "dev", "version 1", "99999999.1"} {
		if got, err := parseVersion(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzParseDaemonJSON(f *testing.F) {
	f.Add([]byte(`{"runtimes":{"nanoclaw":{"runtimeType":"/x","options":{"ConfigPath":"/y"}}}}`))
	f.Add([]byte(`{"runtimes":null}`))
	f.Add([]byte(` `))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := parseDaemonJSON(data); err == nil && r.config != "" && !r.there {
			t.Errorf("%q: %+v", data, r)
		}
	})
}

func FuzzParseVersion(f *testing.F) {
	for _, text := range []string{"virtiofsd 1.14.0", "v53.0", "1..2", "00001.2"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseVersion(text); err == nil && slices.Min(got.version[:]) < 0 {
			t.Errorf("%q: %v", text, got)
		}
	})
}
