/* What the programs and package execgate tell each other. bpf2go makes Go types of these structures. */
#ifndef NANOCLAW_EXECGATE_GATE_H
#define NANOCLAW_EXECGATE_GATE_H

/* What is switched on for a container. */
enum scope_flag {
	SCOPE_IMAGE = 1 << 0,          /* code comes from files of the image */
	SCOPE_IMAGE_WOULD = 1 << 1,    /* it is recorded where it does not */
	SCOPE_USERNS = 1 << 2,         /* user namespaces may be made */
	SCOPE_MOUNT = 1 << 3,          /* file systems may be mounted */
	SCOPE_PTRACE = 1 << 4,         /* any process may be traced, not only one's children */
	SCOPE_RECORD_ALLOWED = 1 << 5, /* record programs that may run as well */
	SCOPE_WOULD = 1 << 6,          /* all rules only record, so ways around them do as well */
};

struct scope {
	u32 flags;
	/* Closed lists, a bit for each: a program must be in all of the first, and it is recorded where it is not in all of
	 * the second. */
	u32 lists;
	u32 lists_would;
	/* The root file system's device, and the time from which on a change of a file means that it is not the image's
	 * any more. */
	u32 root_dev;
	s64 image_sec;
	u32 image_nsec;
	u32 pad;
};

/* What the rules say of one file. */
enum label_bit {
	LABEL_DENY = 1 << 0,
	LABEL_HIDE = 1 << 1,
	LABEL_ASK = 1 << 2,
	LABEL_READONLY = 1 << 3,
	LABEL_ARGS = 1 << 4,    /* some rules depend on the arguments: see args */
	LABEL_TRUSTED = 1 << 5, /* it counts as the image's */
	LABEL_GUARDED = 1 << 6, /* nobody but itself reads it or maps its code, or the rules were for nothing */
	LABEL_KEPT = 1 << 7,    /* nobody changes it */
};

struct label {
	u64 scope; /* the container's cgroup */
	u32 bits;
	u32 would; /* bits of rules that only record */
	/* Which rule is told of, see event. */
	u32 rule;
	u32 would_rule;
	u32 lists;     /* closed lists that it is in */
	u32 arg_lists; /* and those that it is in with some arguments */
	u32 args;      /* key of an argset */
	u32 id;        /* differs for each labelled file */
};

#define MAX_ARG_RULES 16

struct arg_rule {
	u64 last; /* the bit of its last word */
	u32 action;
	u32 rule;
	u32 lists; /* of an action that allows */
	u32 would;
};

/* The words of a set's rules have a bit each, one rule after the other. */
struct argset {
	u64 first; /* the bits of first words */
	u32 count;
	u32 firm; /* how many of the rules forbid a run, and do not only record it */
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
	TASK_READONLY_WOULD = 1 << 1,
};

struct task_state {
	u32 flags;
	u32 rule; /* why it is read-only */
	u32 self; /* the label of the program that it runs, where that has one */
	u32 judged; /* the arguments that it was started with were: nobody changes them now */
	/* Of an exec that has not been committed yet. */
	u32 next_flags;
	u32 next_rule;
	u32 next_self;
	u32 next_args;
	u32 next_lists;
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
	KIND_KERNEL = 15,
};

enum decision {
	DECISION_ALLOW = 0,
	DECISION_DENY = 1,
	DECISION_HIDE = 2,
	DECISION_ASK = 3, /* nobody is there to be asked, so it is refused */
	DECISION_KILL = 4,
	DECISION_READONLY = 5, /* of a rule about arguments only */
};

/* What an event's rule is, where it is no rule of the policy: those are numbered from 1 on. */
#define RULE_IMAGE 0x10000000
#define RULE_LIST 0x20000000 /* and the number of the list */

#define EVENT_PATH 256
#define EVENT_ARGV 512

struct event {
	u64 scope;
	enum kind kind;
	enum decision decision;
	u32 would; /* it was not refused */
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
