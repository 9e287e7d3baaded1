package config

import (
	"crypto/x509"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRoots(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	file := filepath.Join(t.TempDir(), "roots.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, cert, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, extra := range []string{"", file} {
		c := Default()
		c.ExtraRoots = extra
		roots, err := c.Roots()
		if err != nil {
			t.Fatal(err)
		}
		_, err = server.Certificate().Verify(x509.VerifyOptions{Roots: roots, DNSName: "example.com"})
		if (err == nil) != (extra != "") {
			t.Errorf("with %q: %v", extra, err)
		}
	}
	if err := os.WriteFile(file, []byte("nothing"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "has no certificate", filepath.Join(t.TempDir(), "none"): "extra_roots"} {
		c := Default()
		c.ExtraRoots = path
		if _, err := c.Roots(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
