package config

import (
	"crypto/x509"
	"fmt"

	"github.com/nanoclaw/nanoclaw/internal/ownedfile"
)

// maxRoots bounds the file of further authorities, in bytes.
const maxRoots = 1 << 20

// Roots are the authorities whose certificates servers may have to which the host
// sends something for a container: this host's, and those of the file that the
// configuration names. Whoever can write that file can pass for any server.
func (c *Config) Roots() (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read this host's certificate authorities: %w", err)
	}
	if c.ExtraRoots == "" {
		return pool, nil
	}
	data, err := ownedfile.Read(ownedfile.Kind{Name: "the file of certificate authorities (extra_roots)", Max: maxRoots}, c.ExtraRoots)
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("the file of certificate authorities (extra_roots) %s has no certificate in it", c.ExtraRoots)
	}
	return pool, nil
}
