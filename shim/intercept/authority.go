package intercept

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// authorityLife and leafLife are how long certificates are good for, leafRest
	// how much of that one must have that is handed out.
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 30 * 24 * time.Hour
	leafRest      = 24 * time.Hour
	// clockSkew is how far behind the guest's clock may be.
	clockSkew = time.Hour
	// maxLeaves bounds the certificates that are remembered.
	maxLeaves = 256
)

// authority makes the certificates that one VM is shown. Its key is nowhere but
// in this process.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	// leafKey is that of all certificates: whoever has it has this process.
	leafKey *ecdsa.PrivateKey

	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

func newAuthority(now time.Time) (*authority, error) {
	a := &authority{leaves: map[string]*tls.Certificate{}}
	for _, key := range []**ecdsa.PrivateKey{&a.key, &a.leafKey} {
		var err error
		if *key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, fmt.Errorf("make a key for the container's connections: %w", err)
		}
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "NanoClaw, for this container alone"},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(authorityLife),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make an authority for the container's connections: %w", err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("make an authority for the container's connections: %w", err)
	}
	return a, nil
}

// pem is the authority's certificate.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// leaf is a certificate for one name or address.
func (a *authority) leaf(host string, now time.Time) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.leaves[host]; ok && now.Add(leafRest).Before(c.Leaf.NotAfter) {
		return c, nil
	}
	template := &x509.Certificate{
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, a.leafKey.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", host, err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.leafKey}
	if c.Leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", host, err)
	}
	if len(a.leaves) >= maxLeaves {
		// Any of them: it is made again.
		for other := range a.leaves {
			delete(a.leaves, other)
			break
		}
	}
	a.leaves[host] = c
	return c, nil
}
