package audit

import (
	"time"
)

// Event is what a record is about.
type Event string

// The events.
const (
	// Lifecycle is the life of a container: create, start, exit, delete.
	Lifecycle Event = "lifecycle"
	// Exec is a program: started by the engine (docker exec) or judged by the
	// gate in the guest.
	Exec Event = "exec"
	// Mount is files of the host that a container asked for.
	Mount Event = "mount"
	// File is an access to a file.
	File Event = "file"
	// Network is a connection or a name.
	Network Event = "network"
	// Secret is a use of a secret, by its name.
	Secret Event = "secret"
	// Approval is a question put to a person, and the answer.
	Approval Event = "approval"
	// Boundary is an attempt to leave the virtual machine, or the death of a part
	// that holds it together.
	Boundary Event = "boundary"
	// Lost says that there should be more records than there are.
	Lost Event = "lost"
	// LogFile is about the log itself: begin, rotate, prune, checked.
	LogFile Event = "log"
)

// Events are all of them, in the order of the documentation.
var Events = []Event{Lifecycle, Exec, Mount, File, Network, Secret, Approval, Boundary, Lost, LogFile}

// Decision is what a rule said.
type Decision string

// The decisions.
const (
	Allow Decision = "allow"
	Ask   Decision = "ask"
	Deny  Decision = "deny"
)

// The actions of the records that the log itself writes.
const (
	// ActionBegin is the first record of a log.
	ActionBegin = "begin"
	// ActionRotate is the last record of a file.
	ActionRotate = "rotate"
	// ActionChecked is written to see that the log can be.
	ActionChecked = "checked"
	// ActionPrune names a file that is removed because the log is full.
	ActionPrune = "prune"
	// ActionDropped counts records that came faster than they may.
	ActionDropped = "dropped"
	// ActionUnwritten counts records that the disk did not take.
	ActionUnwritten = "unwritten"
	// ActionTorn follows a line whose writer was interrupted.
	ActionTorn = "torn"
	// ActionDamaged follows a place where the log is not as it was written.
	ActionDamaged = "damaged"
)

// Entry is what a producer says. Every string of it may come from a guest: the
// log bounds and escapes them.
type Entry struct {
	Event    Event    `json:"event"`
	Decision Decision `json:"decision,omitempty"`
	// Would is the decision that was not carried out, because the mode is audit.
	Would Decision `json:"would,omitempty"`
	// Rule names the rule that decided.
	Rule     string    `json:"rule,omitempty"`
	Subject  *Subject  `json:"subject,omitempty"`
	Object   *Object   `json:"object,omitempty"`
	Approval *Approved `json:"approval,omitempty"`
}

// Subject is the process that did something: its ids in the guest, or, of an
// exec, what it is to run as.
type Subject struct {
	PID  int      `json:"pid,omitempty"`
	PPID int      `json:"ppid,omitempty"`
	UID  *uint32  `json:"uid,omitempty"`
	Exe  string   `json:"exe,omitempty"`
	Argv []string `json:"argv,omitempty"`
}

// Object is what was done, to what. Which fields are set depends on the event.
type Object struct {
	Action string `json:"action,omitempty"`
	// Exec is the engine's id of an exec.
	Exec string `json:"exec,omitempty"`
	// Source is a mount's source as it was asked for, Path what it resolved to
	// where that differs, or the file of another event.
	Source      string `json:"source,omitempty"`
	Path        string `json:"path,omitempty"`
	Destination string `json:"destination,omitempty"`
	// Access is "ro" or "rw".
	Access string `json:"access,omitempty"`
	// Host, Port, Protocol and Method are of a connection; its Path has no query.
	Host     string `json:"host,omitempty"`
	Port     uint16 `json:"port,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Method   string `json:"method,omitempty"`
	// Name is a secret's or a tool's.
	Name string `json:"name,omitempty"`
	// Status is an exit status.
	Status *uint32 `json:"status,omitempty"`
	OOM    bool    `json:"oom,omitempty"`
	// Hypervisor is what runs the virtual machine; Emulated is set where that
	// isolates nothing.
	Hypervisor string `json:"hypervisor,omitempty"`
	Emulated   bool   `json:"emulated,omitempty"`
	// Mode is the policy's.
	Mode string `json:"mode,omitempty"`
	// Layer is where the rule came from.
	Layer string `json:"layer,omitempty"`
	// Detail is for a person.
	Detail string `json:"detail,omitempty"`

	// Of Lost and LogFile.
	Count  uint64 `json:"count,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	File   string `json:"file,omitempty"`
	Last   uint64 `json:"last,omitempty"`
}

// Approved is an answer of a person.
type Approved struct {
	ID    string `json:"id,omitempty"`
	By    string `json:"by,omitempty"`
	Scope string `json:"scope,omitempty"`
}

// Record is one line of the log.
type Record struct {
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"`
	BootID string    `json:"boot_id"`
	// Container, Agent and Policy, which is its digest, are who it is about. A
	// record of the log itself has none.
	Container string `json:"container,omitempty"`
	Agent     string `json:"agent,omitempty"`
	Policy    string `json:"policy,omitempty"`
	Entry
	// Prev is the previous record's Hash.
	Prev string `json:"prev"`
	// Hash is the SHA-256 of Prev, as it is written, and the line without its
	// hash.
	Hash string `json:"-"`
	// line is the record as it was read.
	line []byte
}

// JSON is the record as it stands in the log, without the newline.
func (r *Record) JSON() []byte { return r.line }

// Violation reports whether a record is of something that a container was not
// allowed to do, whether or not it was stopped.
func (r *Record) Violation() bool {
	return r.Decision == Deny || r.Would == Deny || r.Event == Boundary
}
