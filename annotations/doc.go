// Package annotations turns what a container asks for into what it may have:
// the io.nanoclaw.* annotations and the OCI spec go in, one effective [Policy]
// comes out, or a [Refusal] that says what was asked, which rule of which layer
// forbids it, and what to do instead.
//
// It is pure: it reads no file, starts nothing, and knows of no VM. What it must
// know about the host, such as what a mount's source resolved to, it is told by
// its caller, in a [Source].
//
// What it promises:
//
//   - A policy only narrows. No annotation makes anything possible that the
//     baseline refuses.
//   - It fails closed. An annotation below io.nanoclaw. that is unknown, or known
//     but not enforced by this version, is refused and never ignored.
//   - Every rule names the layer it came from.
//
// What it does not promise: that a rule is enforced. A mount is judged here, but
// shim/share mounts it; a limit is chosen here, but the VM is sized elsewhere.
package annotations
