package agent

import "google.golang.org/grpc/codes"

// RuntimeStatus is the status of an error that is the container runtime's own
// message. Docker chooses exit codes by such words (126, 127), so that text
// reaches it as it is; that of every other error is kept from being taken for it.
const RuntimeStatus = codes.Aborted
