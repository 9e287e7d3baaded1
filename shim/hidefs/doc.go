// Package hidefs shows a folder of the host without what is hidden in it: a FUSE
// file system, in a process of its own, between the folder and the share that a
// VM sees. It is there for mounts with a mounts.hide rule, and for no other.
//
// A rule is about names: what a folder's entry is called at the moment when it
// is looked at, in the container's words. What is below a hidden folder is hidden
// with it.
//
// What it promises, to whoever is root in the VM's initial namespaces:
//
//   - A hidden name is not there: no look-up, listing, opening, removal or change
//     finds it (ENOENT), also where it came later than the VM, or was moved there
//     by the host.
//   - A hidden name cannot be made (EACCES).
//   - No folder is moved to where other names are hidden below it (EACCES), so
//     that what a name hides stays hidden.
//   - Nothing leads out of the folder: every step is one name in an open folder,
//     and links are never followed here.
//   - Where the process ends, nothing is seen at all.
//
// What it does not promise: a file that the host has under a second name, by a
// hard link, is seen under that; what was opened before the host moved it stays
// open; and what makes no difference between secret and SECRET is not for it
// (the share refuses such file systems).
//
// Everything else is as in the folder itself: owners, modes, links, extended
// attributes, and file content, which is never kept here.
package hidefs
