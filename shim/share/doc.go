// Package share composes one folder tree out of a VM's root file systems and
// bind mounts, and serves it to the VM through one virtiofsd.
//
// The tree lives in the mount namespace of the calling process, which must be
// private: ID/rootfs and ID/mounts/N for each container, any number of them, on
// a skeleton that the VM cannot write to. The package knows nothing of
// hypervisors, and decides nothing: annotations.Policy does.
//
// What it promises, each line with a test that fails without it:
//
//   - A source is resolved once, to a descriptor; what that descriptor is was
//     judged, and that descriptor is what is mounted. A name that is exchanged
//     in between changes nothing.
//   - It is judged by every name it has: after symbolic links and "..", and by
//     where its content lies on its file system, so that a bind mount of a
//     forbidden place is that place. Mounts below it are judged likewise.
//   - A single file is shared as that file, never as its folder.
//   - Read-only is set on the host, for a mount and all mounts below it.
//   - Nothing in the tree can be executed, is setuid, or opens a device, on the
//     host: the VM may create such files, and virtiofsd cannot use them.
//   - Mount points in a read-only root are made without leaving that root.
//   - After Close nothing is left: no process, mount, socket or file.
//
// What it does not promise: that two programs on both sides of the share see
// each other's file locks, or see changes at once; docs/files.md has the rules.
// Whoever is root on the host can mount things at the same time and is no
// attacker here.
package share
