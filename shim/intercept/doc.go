// Package intercept speaks for a server with a container, where the host has to
// see what is asked: it puts secrets into requests, and keeps requests that
// write from endpoints that may only be read.
//
// A secret's value is never in the container. There it has a placeholder, which
// is replaced here, on the host, in requests to the hosts that the secret is for.
// To see a request the connection is answered here, with a certificate of an
// authority that lives in this process alone and that one VM trusts; what may be
// sent on is sent over a connection of its own, to a server that has shown a
// certificate for that very name to the host.
//
// What it promises: a value is sent in the head of a request (values of fields,
// the query), over TLS, to a server that has proven to be the secret's host, and
// nowhere else. Where a connection leads was decided before, outside the guest;
// the name that the guest says in TLS and the host that it says in HTTP must be
// that one. What comes back has the placeholder in the place of the value. A
// request to a read-only endpoint reads, by what HTTP says of its method, or is
// refused. What a guest can use up is bounded.
//
// What it does not promise: a server that sends the value back in another form
// (encoded, compressed, in parts) is not noticed, and neither is what the server
// itself does with it. A server that changes something on GET is changed.
//
// It does not decide what can be reached, and makes no connection by itself: that
// is package egress.
package intercept
