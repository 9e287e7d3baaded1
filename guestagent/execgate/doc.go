// Package execgate holds a container to the programs that its policy allows,
// from inside the guest's kernel: BPF programs on the security hooks, loaded
// before the container exists, that judge a task by its cgroup and a program by
// its inode.
//
// What it promises, each with a test that fails without it:
//
//   - A rule is about a file, found once from outside when the container's
//     mounts exist and before its program starts. Renaming, linking, chroot, a
//     bind mount, a descriptor or the dynamic loader do not get around it, and
//     nothing in the container changes or replaces the content of that file.
//   - In the modes image and allowlist, machine code comes from files of the
//     image that were not changed since the container was made, or from files
//     that a rule allows: programs, libraries and every other mapping. What is
//     mapped so does not change afterwards either.
//   - Arguments are judged when nobody can change them any more, and before
//     the program's first instruction; who traces such a program could, so it is
//     not traced.
//   - A read-only tool changes no file, nor does anything that it starts.
//   - In the container's reach there are no AF_VSOCK sockets, bpf(), perf
//     events, helpers started by the kernel, writes to sysfs and to files of proc
//     that change the kernel itself; nor, unless the policy says so, user
//     namespaces, mounts, and tracing of a process that is not one's child. A
//     process that the runtime brings into the container is out of reach until
//     it is the container's program.
//   - What cannot be judged is refused. The links are this process's, PID 1: the
//     gate ends with the VM and not before.
//
// What it does not promise: that a program that may run does only what it is
// for. An interpreter that is allowed is arbitrary code, and in mode any the
// container may bring programs of its own; what code can reach is limited on
// the host. Nor does it hold against a guest kernel that was taken over.
package execgate
