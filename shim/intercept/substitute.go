package intercept

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
)

// put replaces placeholders by their values in what is sent to the server: in
// the values of fields, and in the query. It returns the names of the secrets
// that were put in.
func put(r *http.Request, values []value) (used []string) {
	for _, v := range values {
		if v.missing || !mentions(r, v.placeholder) {
			continue
		}
		used = append(used, v.name)
		for _, fields := range r.Header {
			for i := range fields {
				fields[i] = inField(fields[i], v.placeholder, v.value)
			}
		}
		r.URL.RawQuery = strings.ReplaceAll(r.URL.RawQuery, v.placeholder, url.QueryEscape(v.value))
	}
	return used
}

// missing returns the name of a secret that a request needs and that could not
// be read; empty: there is none.
func missing(r *http.Request, values []value) string {
	for _, v := range values {
		if v.missing && mentions(r, v.placeholder) {
			return v.name
		}
	}
	return ""
}

// mentions reports whether a placeholder is where it would be replaced.
func mentions(r *http.Request, placeholder string) bool {
	for _, fields := range r.Header {
		for _, f := range fields {
			if inField(f, placeholder, "") != f {
				return true
			}
		}
	}
	return strings.Contains(r.URL.RawQuery, placeholder)
}

// inField replaces text in the value of a field. A user's name and password are
// encoded there (RFC 7617).
func inField(field, old, replacement string) string {
	const basic = "basic "
	if len(field) > len(basic) && strings.EqualFold(field[:len(basic)], basic) {
		encoded := strings.TrimLeft(field[len(basic):], " ")
		if plain, err := base64.StdEncoding.DecodeString(encoded); err == nil && strings.Contains(string(plain), old) {
			return field[:len(basic)] + base64.StdEncoding.EncodeToString([]byte(strings.ReplaceAll(string(plain), old, replacement)))
		}
	}
	return strings.ReplaceAll(field, old, replacement)
}
