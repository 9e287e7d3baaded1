// Package egress decides what a container reaches, and reaches it in its place:
// the gateway of a container that has rules about the network.
//
// Package network leads all that the guest sends to the listeners of this one,
// in the container's network namespace. A connection is taken, judged by the
// name or the address that it is for, and made anew from here; a question for a
// name is answered from here. What is denied is refused at once, and recorded.
//
// Names. Where only what is listed can be reached, a name is answered with an
// address that stands for it alone, out of a range that nobody else uses (Pool).
// So a connection says for which name it is, and not only for an address that
// many names share; what the name resolves to is found out and judged here, when
// the connection is made, so that an answer that changes in between gains
// nothing. An address that nobody was answered with is judged as an address.
// Where everything but what is denied can be reached, answers are passed on as
// they are, but for names that are denied at some ports.
//
// What it promises: the real connection is made outside the VM, to an address
// that was judged, and never to the namespace itself. No byte of the guest's is
// sent to a resolver but a name that was allowed, and questions are made anew
// from what was understood of them. What a guest can use up is bounded.
//
// What it does not promise: it does not look into connections, but for those that
// package intercept answers, for secrets and for endpoints that may only be read.
// Whoever is allowed to reach a server reaches everything that the server is. A
// name that is denied where all else is open is not answered; its addresses are
// not denied with it.
package egress
