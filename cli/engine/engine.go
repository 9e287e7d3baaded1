// Package engine asks the Docker daemon of this host, by its API. It changes
// nothing there.
//
// It is for the few questions that the operator's command has; what the daemon
// says is bounded, since part of it is what a person wrote.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
)

const (
	maxDocument = 1 << 20
	patience    = 5 * time.Second
)

// ErrNotFound is wrapped where the daemon does not have what was asked for.
var ErrNotFound = errors.New("docker has nothing of this name")

// Socket is where a daemon answers, by a DOCKER_HOST; empty where that is no
// local socket.
func Socket(host string) string {
	if host == "" {
		return "/var/run/docker.sock"
	}
	path, local := strings.CutPrefix(host, "unix://")
	if !local {
		return ""
	}
	return path
}

// Here is the socket of this process's DOCKER_HOST.
func Here() string { return Socket(os.Getenv("DOCKER_HOST")) }

// Runtimes returns the names of the runtimes that the daemon knows.
func Runtimes(ctx context.Context, socket string) (map[string]bool, error) {
	var info struct{ Runtimes map[string]json.RawMessage }
	if err := get(ctx, socket, "/info", &info); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for name := range info.Runtimes {
		names[name] = true
	}
	return names, nil
}

// validName is what Docker takes as a container's name, or the beginning of an id.
var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`)

// ContainerID returns the id of a container by its name.
func ContainerID(ctx context.Context, socket, name string) (string, error) {
	if !validName.MatchString(name) {
		return "", fmt.Errorf("%q cannot be a container's name", name)
	}
	var container struct{ ID string }
	err := get(ctx, socket, "/containers/"+url.PathEscape(name)+"/json", &container)
	return container.ID, err
}

// get asks the daemon for a document, and reads it into v.
func get(ctx context.Context, socket, path string, v any) error {
	if socket == "" {
		return errors.New("DOCKER_HOST names no unix:// socket")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		// Its address is not the socket's.
		var at *net.OpError
		if errors.As(err, &at) {
			err = at
		}
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusNotFound:
		return ErrNotFound
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answers %s: %.200q", socket, resp.Status, data)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s answers what is no JSON: %w", socket, err)
	}
	return nil
}
