// Package audit is the record of what containers did and were refused: one JSON
// object per line, in a file of the host's that no container sees.
//
// One log serves all shims of a host, and one chain of hashes runs through it
// and through the files it was rotated into, so that an operator can follow one
// file, and so that the records of one container cannot be taken out without a
// trace in those of the others. Shims share it by a lock on the file "head".
//
// What it promises:
//
//   - A record that [Recorder.Record] has taken is on the disk. One that
//     [Recorder.Post] took may be lost with the shim, and the shim's own death is on
//     record.
//   - [Verify] finds any line that was changed, removed, added or reordered, by
//     accident or by somebody who does not write the chain anew.
//   - What could not be recorded is counted, and the number is recorded.
//   - What comes from a guest is bounded and escaped, one container's records
//     are bounded in rate, and the whole in size.
//
// What it does not: root of the host can write the whole chain and its head
// anew. Against that, the place of the last record (see [Report]) has to be
// kept elsewhere from time to time. There is no field for the values of
// environment variables or for contents of files or requests; arguments are
// written, since they are what was run.
package audit
