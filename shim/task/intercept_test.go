package task

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
)

// salesAgent is the policy of an agent with a secret, whose value is at path.
func salesAgent(t *testing.T, path string) *annotations.Policy {
	t.Helper()
	p, err := compiled(t, "tools:\n  crm:\n    endpoints: [crm.example.com]\n    secrets: [{env: CRM_TOKEN, source: \"file:"+path+"\", hosts: [crm.example.com]}]\n"+
		"agents:\n  - name: sales\n    tools: [crm]\n", map[string]string{annotations.KeyAgent: "sales"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestInterception(t *testing.T) {
	path, rootfs := filepath.Join(t.TempDir(), "crm"), t.TempDir()
	p := salesAgent(t, path)
	_, err := newInterception(config.Default(), p, rootfs, func(audit.Entry) {})
	var refusal *annotations.Refusal
	if !errors.As(err, &refusal) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("without the file: %v", err)
	}
	for _, want := range []string{`"sales"`, "CRM_TOKEN", path, "is missing"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
	if err := os.WriteFile(path, []byte("the true value\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	i, err := newInterception(config.Default(), p, rootfs, func(audit.Entry) {})
	if err != nil {
		t.Fatal(err)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("a core of the process can be dumped: %d, %v", dumpable, err)
	}
	env := i.environment([]string{"PATH=/bin", "CRM_TOKEN=its own", "CURL_CA_BUNDLE=/mine.pem"})
	var token string
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, "CRM_TOKEN="); ok {
			if token != "" {
				t.Errorf("it is there twice: %v", env)
			}
			token = value
		}
	}
	if len(token) != len("nanoclaw-secret-")+32 || !strings.HasPrefix(token, "nanoclaw-secret-") {
		t.Errorf("CRM_TOKEN=%s", token)
	}
	for _, want := range []string{"PATH=/bin", "CURL_CA_BUNDLE=/mine.pem", "SSL_CERT_FILE=/dev/nanoclaw/ca-bundle.pem", "NODE_EXTRA_CA_CERTS=/dev/nanoclaw/ca.pem"} {
		if !slices.Contains(env, want) {
			t.Errorf("%v lacks %s", env, want)
		}
	}
	document, err := i.process([]byte(`{"args":["x"],"ioPriority":{"class":"IOPRIO_CLASS_BE"},"later":1,"env":["A=b"]}`))
	if err != nil {
		t.Fatal(err)
	}
	var process struct {
		specs.Process
		Later int
	}
	if err := json.Unmarshal(document, &process); err != nil {
		t.Fatal(err)
	}
	if process.Later != 1 || process.IOPriority == nil || process.Env[0] != "A=b" || !slices.Contains(process.Env, "CRM_TOKEN="+token) {
		t.Errorf("%s", document)
	}
	all := string(document) + strings.Join(env, " ")
	for _, f := range i.shared() {
		all += string(f.GetContent())
	}
	if strings.Contains(all, "the true value") || !strings.Contains(all, "BEGIN CERTIFICATE") || strings.Contains(all, "PRIVATE") {
		t.Error("the container has what it must not have, or lacks what it needs")
	}
	again, err := newInterception(config.Default(), p, rootfs, func(audit.Entry) {})
	if err != nil || slices.Equal(again.secrets, i.secrets) {
		t.Errorf("another container has the same: %v, %v", again.secrets, err)
	}
	if g := granted(p); len(g) != 1 || g[0].Object.Path != path || g[0].Object.Detail != "for crm.example.com:443" || g[0].Object.Name != "CRM_TOKEN" {
		t.Errorf("recorded %+v", g)
	}
}

// A container of which nothing is looked into is as ever.
func TestNoInterception(t *testing.T) {
	p, err := compiled(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	i, err := newInterception(config.Default(), p, t.TempDir(), nil)
	if err != nil || i != nil || i.interceptor() != nil || i.shared() != nil {
		t.Errorf("%+v, %v", i, err)
	}
	if env := i.environment([]string{"A=b"}); !slices.Equal(env, []string{"A=b"}) {
		t.Errorf("%v", env)
	}
	if d, err := i.process([]byte("not read")); string(d) != "not read" || err != nil {
		t.Errorf("%s, %v", d, err)
	}
}

func TestImageBundle(t *testing.T) {
	root, outside := t.TempDir(), filepath.Join(t.TempDir(), "host.pem")
	put := func(name, content string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.Symlink(target, name)); err != nil {
			t.Fatal(err)
		}
	}
	is := func(want string) {
		t.Helper()
		if got, err := imageBundle(root); string(got) != want || err != nil {
			t.Errorf("%.30q, %v, want %q", got, err, want)
		}
	}
	is("")
	// A link leads to nothing of the host's, although to the host it does.
	if err := os.WriteFile(outside, []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	link(outside, "etc/ssl/cert.pem")
	is("")
	if b, err := os.ReadFile(filepath.Join(root, "etc/ssl/cert.pem")); string(b) != "the host's" {
		t.Errorf("the attack fails by itself: %v", err)
	}
	put(outside, "the image's")
	is("the image's")
	put("etc/pki/tls/certs/ca-bundle.crt", "Fedora's")
	is("Fedora's")
	link("/etc/pki/tls/certs/ca-bundle.crt", "etc/ssl/certs/ca-certificates.crt")
	is("Fedora's")
	put("etc/pki/tls/certs/ca-bundle.crt", strings.Repeat("x", maxBundle+1))
	if _, err := imageBundle(root); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
}
