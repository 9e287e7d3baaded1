package pattern

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Private is the word for all addresses that are not the public Internet's.
const Private = "private"

// privatePrefixes are what [Private] stands for: private, shared, loopback,
// link-local, unspecified, multicast and reserved.
var privatePrefixes = func() (all []netip.Prefix) {
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/127", "fc00::/7", "fe80::/10", "ff00::/8",
	} {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}()

// Endpoint is a pattern of places in a network. Its text is the same for the
// same pattern, however it was written.
type Endpoint struct {
	// Host is a name; *.x, one label more than x; **.x, any number more; **,
	// anything; an address; a prefix of addresses; or [Private].
	Host string
	// Port is 0 for any.
	Port uint16
}

var label = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// ParseEndpoint reads host or host:port. An IPv6 address with a port is in
// brackets.
func ParseEndpoint(s string) (Endpoint, error) {
	if len(s) > 300 {
		return Endpoint{}, errors.New("it is longer than a host name can be")
	}
	host, port, err := cutPort(s)
	if err != nil {
		return Endpoint{}, err
	}
	host, err = checkHost(host)
	return Endpoint{Host: host, Port: port}, err
}

func cutPort(s string) (host string, port uint16, err error) {
	host, text, found := s, "", false
	switch {
	case strings.HasPrefix(s, "["):
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", 0, errors.New("the bracket is not closed")
		}
		rest := s[end+1:]
		host = s[1:end]
		if !strings.Contains(host, ":") {
			return "", 0, errors.New("only an IPv6 address is in brackets")
		}
		text, found = strings.CutPrefix(rest, ":")
		if !found && rest != "" {
			return "", 0, errors.New("after the bracket can only come :port")
		}
	case strings.Count(s, ":") == 1:
		host, text, found = strings.Cut(s, ":")
	}
	if !found {
		return host, 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || strings.Trim(text, "0123456789") != "" {
		return "", 0, errors.New("the port is not a number from 1 to 65535")
	}
	return host, uint16(n), nil
}

// checkHost returns a host pattern in its one spelling.
func checkHost(h string) (string, error) {
	h = strings.ToLower(h)
	if h == Private || h == anyDepth {
		return h, nil
	}
	if h == "*" {
		return "", errors.New("* is one label; write ** for every host")
	}
	if p, err := netip.ParsePrefix(h); err == nil {
		if p.Masked() != p {
			return "", fmt.Errorf("the prefix has bits set behind it (write %s)", p.Masked())
		}
		if p.Addr().Is4In6() {
			return "", errors.New("write the IPv4 prefix as such")
		}
		return p.String(), nil
	}
	if a, err := netip.ParseAddr(h); err == nil {
		if a.Zone() != "" {
			return "", errors.New("an address with a zone has a meaning only on one machine")
		}
		return a.Unmap().String(), nil
	}
	name := strings.TrimSuffix(h, ".")
	rest := strings.TrimPrefix(strings.TrimPrefix(name, "**."), "*.")
	labels := strings.Split(rest, ".")
	for _, l := range labels {
		if !label.MatchString(l) {
			return "", errors.New("it is not a host name, an address, a prefix such as 10.0.0.0/8, or the word private; *. and **. stand only at the beginning")
		}
	}
	if len(rest) > 253 {
		return "", errors.New("it is longer than a host name can be")
	}
	// 127.1 and 0x7f.1 are addresses to some programs.
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return "", errors.New("it ends like an address, and is none in its usual form")
	}
	return name, nil
}

// String is the endpoint as [ParseEndpoint] reads it.
func (e Endpoint) String() string {
	if e.Port == 0 {
		return e.Host
	}
	return e.WithPort(strconv.Itoa(int(e.Port)))
}

// WithPort is the text of the endpoint's host at a port, which is not checked.
func (e Endpoint) WithPort(port string) string {
	if strings.Contains(e.Host, ":") {
		return "[" + e.Host + "]:" + port
	}
	return e.Host + ":" + port
}

// IsWild reports whether the pattern stands for more than one host.
func (e Endpoint) IsWild() bool {
	return strings.Contains(e.Host, "*") || strings.Contains(e.Host, "/") || e.Host == Private
}

// Match reports whether a host, a name or an address, at a port is meant.
func (e Endpoint) Match(host string, port uint16) bool {
	one, err := checkHost(host)
	if err != nil {
		return false
	}
	o := Endpoint{Host: one, Port: port}
	return !o.IsWild() && e.Covers(o)
}

// Covers reports whether e means everything that o means.
func (e Endpoint) Covers(o Endpoint) bool {
	if e.Port != 0 && e.Port != o.Port {
		return false
	}
	if e.Host == anyDepth || e.Host == o.Host {
		return true
	}
	if p, isAddress := prefix(o.Host); isAddress {
		return coversPrefix(e.Host, p)
	}
	if o.Host == Private || o.Host == anyDepth {
		return false
	}
	if suffix, ok := strings.CutPrefix(e.Host, "**"); ok {
		return strings.HasSuffix(o.Host, suffix)
	}
	if suffix, ok := strings.CutPrefix(e.Host, "*"); ok {
		first, found := strings.CutSuffix(o.Host, suffix)
		return found && first != "" && first != anyDepth && !strings.Contains(first, ".")
	}
	return false
}

func coversPrefix(host string, inner netip.Prefix) bool {
	outers := privatePrefixes
	if host != Private {
		p, ok := prefix(host)
		if !ok {
			return false
		}
		outers = []netip.Prefix{p}
	}
	for _, o := range outers {
		if o.Bits() <= inner.Bits() && o.Contains(inner.Addr()) {
			return true
		}
	}
	return false
}

// prefix reads an address or a prefix.
func prefix(host string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(host); err == nil {
		return p, true
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	return netip.Prefix{}, false
}

// MarshalText implements encoding.TextMarshaler.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *Endpoint) UnmarshalText(text []byte) (err error) {
	*e, err = ParseEndpoint(string(text))
	return err
}
