/* What the programs and package execgate tell each other. bpf2go makes Go types of these structures. */
#ifndef NANOCLAW_EXECGATE_GATE_H
#define NANOCLAW_EXECGATE_GATE_H

/* How a container's programs are chosen. */
enum mode {
	MODE_ANY = 0,
	MODE_IMAGE = 1,
	MODE_ALLOWLIST = 2,
};

/* What is switched on for a container. */
enum scope_flag {
	SCOPE_AUDIT = 1 << 0,          /* record what would be refused, refuse nothing */
	SCOPE_USERNS = 1 << 1,         /* user namespaces may be made */
	SCOPE_MOUNT = 1 << 2,          /* file systems may be mounted */
	SCOPE_PTRACE = 1 << 3,         /* any process may be traced, not only one's children */
	SCOPE_RECORD_ALLOWED = 1 << 4, /* record programs that may run as well */
};

struct scope {
	u32 flags;
	enum mode mode;
	/* The root file system's device, and the time from which on a change of a file means that it is not the image's
	 * any more. */
	u32 root_dev;
	u32 image_nsec;
	s64 image_sec;
};

/* What the rules say of one file. */
enum label_bit {
	LABEL_ALLOW = 1 << 0,
	LABEL_DENY = 1 << 1,
	LABEL_HIDE = 1 << 2,
	LABEL_ASK = 1 << 3,
	LABEL_READONLY = 1 << 4,
	LABEL_ARGS = 1 << 5,       /* some rules depend on the arguments: see args */
	LABEL_ALLOW_ARGS = 1 << 6, /* one of those allows */
};

struct label {
	u64 scope; /* the container's cgroup */
	u32 bits;
	u32 rule; /* which rule is told of, see event */
	u32 args; /* key of an argset */
	u32 id;   /* differs for each labelled file */
};

#define MAX_ARG_RULES 16

struct arg_rule {
	u64 need; /* all these words occur among the arguments */
	u32 action;
	u32 rule;
};

struct argset {
	u32 count;
	u32 pad;
	struct arg_rule rules[MAX_ARG_RULES];
};

struct word {
	u64 hash;
	u32 args;
	u32 pad;
};

/* What a task carries, and its children after it. */
enum task_flag {
	TASK_READONLY = 1 << 0,
};

struct task_state {
	u32 flags;
	u32 self; /* the label of the program that it runs, where that has one */
	/* Of an exec that has not been committed yet. */
	u32 next_flags;
	u32 next_self;
	u32 next_args;
	u32 next_bits;
};

enum kind {
	KIND_EXEC = 1,
	KIND_MAP = 2,
	KIND_OPEN = 3,
	KIND_CHANGE = 4,
	KIND_READONLY = 5,
	KIND_ARGS = 6,
	KIND_VSOCK = 7,
	KIND_BPF = 8,
	KIND_PERF = 9,
	KIND_USERNS = 10,
	KIND_MOUNT = 11,
	KIND_PTRACE = 12,
	KIND_HELPER = 13,
	KIND_SYSFS = 14,
};

enum decision {
	DECISION_ALLOW = 0,
	DECISION_DENY = 1,
	DECISION_HIDE = 2,
	DECISION_ASK = 3, /* nobody is there to be asked, so it is refused */
	DECISION_KILL = 4,
};

#define EVENT_PATH 256
#define EVENT_ARGV 512

struct event {
	u64 scope;
	enum kind kind;
	enum decision decision;
	u32 would; /* audit: it was not refused */
	u32 rule;
	u32 pid, ppid, uid;
	u32 argc;
	u32 argv_len;
	u32 pad;
	u8 comm[16];
	u8 path[EVENT_PATH];
	u8 argv[EVENT_ARGV]; /* the arguments, each ended by a zero byte, cut off at the end */
};

#endif
