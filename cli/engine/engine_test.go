package engine

import (
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"testing"
)

func serve(t *testing.T, answers map[string]string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte(answer))
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

func TestContainerID(t *testing.T) {
	socket := serve(t, map[string]string{"/containers/name/json": `{"Id":"abc"}`, "/containers/odd/json": "x"})
	if id, err := ContainerID(t.Context(), socket, "name"); err != nil || id != "abc" {
		t.Errorf("%q, %v", id, err)
	}
	if _, err := ContainerID(t.Context(), socket, "other"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	for _, name := range []string{"odd", "", "../info", "a/b", "a?b"} {
		if id, err := ContainerID(t.Context(), socket, name); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%q is %q, %v", name, id, err)
		}
	}
	if _, err := ContainerID(t.Context(), "", "name"); err == nil {
		t.Error("no socket answers")
	}
}

func TestRuntimes(t *testing.T) {
	socket := serve(t, map[string]string{"/info": `{"Runtimes":{"runc":{},"nanoclaw":{}}}`})
	if names, err := Runtimes(t.Context(), socket); err != nil || !names["nanoclaw"] || names["x"] {
		t.Errorf("%v, %v", names, err)
	}
}

func TestSocket(t *testing.T) {
	for host, want := range map[string]string{"": "/var/run/docker.sock", "unix:///run/x.sock": "/run/x.sock", "tcp://127.0.0.1:2375": "", "ssh://h": ""} {
		if got := Socket(host); got != want {
			t.Errorf("%q: %q", host, got)
		}
	}
}
