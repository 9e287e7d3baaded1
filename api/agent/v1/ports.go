package agent

// Ports of the VM's vsock, and the name of its one share.
const (
	// ControlPort is where the agent dials the host (CID 2), once, at boot.
	// The shim's listener is gone as soon as it has accepted that connection.
	ControlPort = 1024

	// StreamPort is where the agent listens for the host's stream connections
	// (package api/stream).
	StreamPort = 1025

	// ShareTag is the mount tag of the virtio-fs device that carries the
	// composed tree: every container's rootfs and volumes.
	ShareTag = "nanoclaw"

	// ShareDir is where the agent mounts it. A translated OCI spec names its
	// root and its bind sources below this folder.
	ShareDir = "/run/nanoclaw/share"
)

// Limits that both sides hold each other to.
const (
	// MaxSpecBytes bounds an OCI spec or process document.
	MaxSpecBytes = 2 << 20

	// MaxFiles is how many files of the host's a container sees in /dev/nanoclaw,
	// MaxFileBytes how long each is.
	MaxFiles     = 16
	MaxFileBytes = 512 << 10

	// MaxStreamID is the length of the longest stream id.
	MaxStreamID = 64

	// MaxContainerID is the length of the longest container or exec id.
	MaxContainerID = 128

	// MaxUnreached is how many endpoints that were not reached are told at once.
	MaxUnreached = 64

	// MaxProcesses is how many processes are listed at most, MaxCommand how many
	// bytes of the command line of each.
	MaxProcesses = 4096
	MaxCommand   = 256
)
