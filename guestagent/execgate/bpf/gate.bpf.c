/* The exec gate's programs. Package execgate's documentation says what they promise.
 *
 * Two rules hold everywhere. A task is judged only if its cgroup is a container's or lies below one (current_scope), so
 * the agent is never in the way of its own gate. And where the kernel does not give what is needed for a judgement, the
 * answer is no.
 */
#include "kernel.h"
#include "gate.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

#define EPERM 1
#define ENOENT 2
#define EACCES 13
#define EROFS 30

#define PROT_EXEC 4
#define AF_VSOCK 40
#define PF_KTHREAD 0x00200000
#define PF_FORKNOEXEC 0x40
#define FMODE_WRITE 2
#define FMODE_EXEC 0x20
#define PTRACE_MODE_ATTACH 2
#define ATTR_SIZE 8
#define SYSFS_MAGIC 0x62656572
#define PROC_MAGIC 0x9fa0
#define CAP_SYS_ADMIN 21
#define NR_FSPICK 433
#define NR_MOUNT_SETATTR 442
#define FS_IOC_SETFLAGS 0x40086602
#define FS_IOC_SETVERSION 0x40087602
#define FS_IOC_FSSETXATTR 0x401c5820
#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFBLK 0060000

#define ARG_CHUNK 2048
#define ARG_CHUNKS 64

/* How deep below the root of the cgroup hierarchy the containers' own groups are, and the group that they are all in. */
const volatile u32 scope_level = 2;
const volatile u64 containers_group = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, u64);
	__type(value, struct scope);
} scopes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct label);
} labels SEC(".maps");

/* Files that were opened for writing while the kernel knew them. */
struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u32);
} written SEC(".maps");

/* Files of the image that were mapped as code. */
struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u32);
} mapped SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_state);
} tasks SEC(".maps");

struct arg_buffer {
	char bytes[ARG_CHUNK];
};

/* Where a task's arguments are looked at: reading them may sleep, so a buffer of the CPU's would be another task's. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct arg_buffer);
} arg_buffers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, struct argset);
} argsets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct word);
	__type(value, u64);
} words SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} lost SEC(".maps");

/* bpf2go makes Go types of what is used somewhere. */
const struct event *used_event __attribute__((unused));
const enum scope_flag *used_scope_flag __attribute__((unused));
const enum label_bit *used_label_bit __attribute__((unused));

static __always_inline struct scope *current_scope(u64 *id)
{
	*id = bpf_get_current_ancestor_cgroup_id(scope_level);
	return bpf_map_lookup_elem(&scopes, id);
}

/* in_container: whether it has a gate or not. */
static __always_inline bool in_container(void)
{
	return bpf_get_current_ancestor_cgroup_id(scope_level - 1) == containers_group;
}

static __always_inline struct label *label_of(struct inode *inode, u64 id)
{
	struct label *l = bpf_inode_storage_get(&labels, inode, 0, 0);

	return l && l->scope == id ? l : 0;
}

static __always_inline struct task_state *state_of(struct task_struct *task, u64 flags)
{
	return bpf_task_storage_get(&tasks, task, 0, flags);
}

static __always_inline struct event *new_event(u64 id, u32 kind, u32 decision, u32 would, u32 rule)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	struct task_struct *task = bpf_get_current_task_btf();
	u32 zero = 0;

	if (!e) {
		u64 *n = bpf_map_lookup_elem(&lost, &zero);

		if (n)
			__sync_fetch_and_add(n, 1);
		return 0;
	}
	e->scope = id;
	e->kind = kind;
	e->decision = decision;
	e->would = would;
	e->rule = rule;
	e->pid = task->tgid;
	e->ppid = BPF_CORE_READ(task, real_parent, tgid);
	e->uid = (u32)bpf_get_current_uid_gid();
	e->argc = 0;
	e->argv_len = 0;
	e->path[0] = 0;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	return e;
}

/* tell records a decision; name is a string of the kernel's, or null. */
static __always_inline void tell(u64 id, u32 kind, u32 decision, u32 would, u32 rule, const void *name)
{
	struct event *e = new_event(id, kind, decision, would, rule);

	if (!e)
		return;
	if (name)
		bpf_probe_read_kernel_str(e->path, sizeof(e->path), name);
	bpf_ringbuf_submit(e, 0);
}

/* refuse records a refusal and returns what the hook is to return. */
static __always_inline int refuse(u64 id, u32 kind, u32 decision, u32 rule, const void *name, int err)
{
	tell(id, kind, decision, 0, rule, name);
	return err;
}

/* note records a refusal that is not carried out. */
static __always_inline void note(u64 id, u32 kind, u32 decision, u32 rule, const void *name)
{
	tell(id, kind, decision, 1, rule, name);
}

/* The verifier wants to see that a hook returns an error number or 0. */
#define RETURN(value)                                                                                                  \
	do {                                                                                                           \
		int r_ = (value);                                                                                      \
		asm volatile("" : "+r"(r_));                                                                           \
		if (r_ >= 0)                                                                                           \
			return 0;                                                                                      \
		if (r_ < -4095)                                                                                        \
			return -EACCES;                                                                                \
		return r_;                                                                                             \
	} while (0)

/* is_name compares a name of the kernel's, all of it, with one of up to fifteen bytes. */
static __always_inline bool is_name(const void *name, const char *is, u32 size)
{
	char got[16] = {};

	bpf_probe_read_kernel_str(got, sizeof(got), name);
	for (u32 i = 0; i < size && i < sizeof(got); i++) {
		if (got[i] != is[i])
			return false;
	}
	return true;
}

#define IS_NAME(name, is) is_name(name, is, sizeof(is))

static __always_inline bool is_regular(struct inode *inode) { return (inode->i_mode & S_IFMT) == S_IFREG; }

/* in_root: the file is one of the container's root file system. */
static __always_inline bool in_root(struct scope *s, struct inode *inode)
{
	return inode->i_sb->s_dev == s->root_dev;
}

/* from_image: the file has not been changed since the container was made. Its change time is the host's, which nothing
 * in the VM can set; it may be some moments old, and for these there is the mark of who opened it for writing here. The
 * mark is lost when the kernel forgets the file, but then the next look asks the host. */
static __always_inline bool from_image(struct scope *s, struct inode *inode)
{
	s64 sec = inode->i_ctime_sec;

	if (!s->image_sec || !in_root(s, inode) || !is_regular(inode))
		return false;
	if (sec > s->image_sec || (sec == s->image_sec && inode->i_ctime_nsec >= s->image_nsec))
		return false;
	return !bpf_inode_storage_get(&written, inode, 0, 0);
}

static __always_inline bool is_own_program(struct inode *inode)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return BPF_CORE_READ(task, mm, exe_file, f_inode) == inode;
}

/* ---- programs ---- */

/* A helper that the kernel itself starts, such as a program that takes core dumps, runs as root outside of every
 * container, and a container that may write /proc/sys chooses which. There is none in this guest. */
static __always_inline int check_helper(const char *filename)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (task->tgid == 1 || !(BPF_CORE_READ(task, real_parent, flags) & PF_KTHREAD))
		return 0;
	tell(0, KIND_HELPER, DECISION_DENY, 0, 0, filename);
	return -EACCES;
}

/* first_list is the number of the lowest list of a set, as a rule. */
static __always_inline u32 first_list(u32 lists)
{
	u32 n = 0;

	for (int i = 0; i < 31; i++) {
		if (lists & (1u << i))
			break;
		n++;
	}
	return RULE_LIST + n;
}

/* would_refuse records what rules that only record would not let run, and reports whether there is anything. */
static __always_inline bool would_refuse(struct scope *s, u64 id, struct label *l, struct inode *inode, u32 kind,
					 const void *name)
{
	u32 rule = l ? l->would_rule : 0;
	u32 would = l ? l->would : 0;
	u32 missing = s->lists_would & ~(l ? l->lists | l->arg_lists : 0);

	/* A program that is run maps itself, and was told of by then. */
	if (kind == KIND_MAP && is_own_program(inode))
		return false;
	if (would & (LABEL_HIDE | LABEL_DENY | LABEL_ASK))
		note(id, kind, would & LABEL_ASK ? DECISION_ASK : DECISION_DENY, rule, name);
	else if (missing && kind == KIND_EXEC)
		note(id, kind, DECISION_DENY, first_list(missing), name);
	else if (s->flags & SCOPE_IMAGE_WOULD && !(l && l->bits & LABEL_TRUSTED) && !from_image(s, inode))
		note(id, kind, DECISION_DENY, RULE_IMAGE, name);
	else if (would & LABEL_GUARDED && kind == KIND_MAP)
		note(id, kind, DECISION_DENY, rule, name);
	else
		return false;
	return true;
}

/* foresee keeps what becomes of the task when the exec is committed. */
static __always_inline int foresee(struct label *l)
{
	struct task_state *t = state_of(bpf_get_current_task_btf(), BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!t)
		return -EACCES;
	/* A script is judged before its interpreter, and what was found for it stays. */
	if (l->bits & LABEL_READONLY) {
		t->next_flags |= TASK_READONLY;
		t->next_rule = l->rule;
	} else if (l->would & LABEL_READONLY) {
		t->next_flags |= TASK_READONLY_WOULD;
		t->next_rule = l->would_rule;
	}
	if (!t->next_self)
		t->next_self = l->id;
	if (l->bits & LABEL_ARGS && !t->next_args) {
		t->next_args = l->args;
		t->next_lists = l->lists;
	}
	return 0;
}

/* holds_args: a run of the program may be forbidden for its arguments, and not only recorded. */
static __always_inline bool holds_args(struct scope *s, u32 args)
{
	struct argset *set = bpf_map_lookup_elem(&argsets, &args);

	return !set || set->firm || s->lists;
}

static __always_inline int check_program(struct scope *s, u64 id, struct inode *inode, const char *filename)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct label *l = label_of(inode, id);
	u32 bits = l ? l->bits : 0;
	u32 rule = l ? l->rule : 0;
	u32 missing = s->lists & ~(l ? l->lists | l->arg_lists : 0);
	bool told;

	if (bits & LABEL_HIDE)
		return refuse(id, KIND_EXEC, DECISION_HIDE, rule, filename, -ENOENT);
	if (bits & LABEL_DENY)
		return refuse(id, KIND_EXEC, DECISION_DENY, rule, filename, -EACCES);
	if (missing)
		return refuse(id, KIND_EXEC, DECISION_DENY, first_list(missing), filename, -EACCES);
	if (s->flags & SCOPE_IMAGE && !(bits & LABEL_TRUSTED) && !from_image(s, inode))
		return refuse(id, KIND_EXEC, DECISION_DENY, RULE_IMAGE, filename, -EACCES);
	if (bits & LABEL_ASK)
		return refuse(id, KIND_EXEC, DECISION_ASK, rule, filename, -EACCES);
	/* Who traces a program changes its arguments when they have been judged. */
	if (bits & LABEL_ARGS && task->ptrace && holds_args(s, l->args))
		return refuse(id, KIND_PTRACE, DECISION_DENY, rule, filename, -EACCES);
	told = would_refuse(s, id, l, inode, KIND_EXEC, filename);
	if (l && (bits & (LABEL_READONLY | LABEL_ARGS | LABEL_GUARDED) || l->would & LABEL_READONLY) && foresee(l))
		return -EACCES;
	if (s->flags & SCOPE_RECORD_ALLOWED && !told)
		tell(id, KIND_EXEC, DECISION_ALLOW, 0, rule, filename);
	return 0;
}

SEC("lsm/bprm_creds_for_exec")
int BPF_PROG(exec_begins, struct linux_binprm *bprm)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_state *t = state_of(task, 0);

	if (t) {
		t->next_flags = 0;
		t->next_self = 0;
		t->next_args = 0;
		t->next_lists = 0;
	}
	return 0;
}

SEC("lsm/bprm_check_security")
int BPF_PROG(exec_program, struct linux_binprm *bprm)
{
	u64 id;
	struct scope *s = current_scope(&id);

	if (!s)
		RETURN(check_helper(bprm->filename));
	RETURN(check_program(s, id, bprm->file->f_inode, bprm->filename));
}

/* ---- arguments ---- */

#define FNV_OFFSET 0xcbf29ce484222325ULL
#define FNV_PRIME 0x100000001b3ULL

struct arg_scan {
	u64 hash;
	u64 seen;  /* words of the set that occurred, each after those before it in its rule */
	u64 first; /* words that need none before */
	unsigned long at, end;
	u32 left; /* bytes of the chunk */
	u32 args;
	int argc; /* arguments to come */
	u32 name; /* the argument is the program's own name */
	u64 bytes;
};

static long scan_byte(u32 i, struct arg_scan *a)
{
	u8 c;

	if (i >= a->left || i >= ARG_CHUNK)
		return 1;
	bpf_probe_read_kernel(&c, 1, (void *)(a->bytes + i));
	if (c) {
		a->hash = (a->hash ^ c) * FNV_PRIME;
		return 0;
	}
	if (a->name) {
		a->name = 0;
	} else {
		struct word w = {.hash = a->hash, .args = a->args};
		u64 *bits = bpf_map_lookup_elem(&words, &w);

		if (bits)
			a->seen |= *bits & (a->first | a->seen << 1);
	}
	a->hash = FNV_OFFSET;
	return --a->argc <= 0;
}

static long scan_chunk(u32 i, struct arg_scan *a)
{
	struct arg_buffer *buffer = bpf_task_storage_get(&arg_buffers, bpf_get_current_task_btf(), 0, 0);
	u64 size;

	if (!buffer || a->argc <= 0 || a->at >= a->end)
		return 1;
	size = a->end - a->at;
	if (size > ARG_CHUNK)
		size = ARG_CHUNK;
	if (bpf_copy_from_user(buffer->bytes, size, (void *)a->at))
		return 1;
	a->bytes = (u64)buffer->bytes;
	a->left = size;
	a->at += size;
	bpf_loop(ARG_CHUNK, scan_byte, a, 0);
	return 0;
}

struct verdict {
	struct argset *set;
	u64 seen;
	u32 lists, flags;
	u32 decision, rule;
	u32 would_decision, would_rule;
	u32 readonly_rule;
};

/* judge_rule: the set's rules come with the strictest first. */
static long judge_rule(u32 i, struct verdict *v)
{
	struct argset *set = v->set;
	struct arg_rule *r;

	if (i >= set->count)
		return 1;
	/* The verifier knows what a mask leaves. */
	asm volatile("" : "+r"(i));
	r = &set->rules[i & (MAX_ARG_RULES - 1)];
	if (!(v->seen & r->last))
		return 0;
	if (r->action == DECISION_ALLOW) {
		v->lists |= r->lists;
	} else if (r->action == DECISION_READONLY) {
		v->flags |= r->would ? TASK_READONLY_WOULD : TASK_READONLY;
		v->readonly_rule = r->rule;
	} else if (r->would) {
		if (!v->would_rule) {
			v->would_decision = r->action;
			v->would_rule = r->rule;
		}
	} else if (!v->rule) {
		v->decision = r->action;
		v->rule = r->rule;
	}
	return 0;
}

static __always_inline void tell_args(u64 id, struct linux_binprm *bprm, u32 decision, u32 would, u32 rule)
{
	struct event *e = new_event(id, KIND_ARGS, decision, would, rule);
	u64 from = bprm->p, n = bprm->exec > from ? bprm->exec - from : 0;

	if (!e)
		return;
	e->argc = bprm->argc;
	if (n > EVENT_ARGV - 1)
		n = EVENT_ARGV - 1;
	if (!bpf_copy_from_user(e->argv, n & (EVENT_ARGV - 1), (void *)from))
		e->argv_len = n;
	bpf_probe_read_kernel_str(e->path, sizeof(e->path), bprm->filename);
	bpf_ringbuf_submit(e, 0);
}

/* check_args runs when the new program's memory is the task's and nothing else can reach it, and before its first
 * instruction; there is no refusing any more, so what must not run is killed. */
static __always_inline void check_args(struct scope *s, u64 id, struct linux_binprm *bprm, struct task_state *t, u32 args,
				       u32 lists)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct arg_buffer *buffer = bpf_task_storage_get(&arg_buffers, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	struct argset *set = bpf_map_lookup_elem(&argsets, &args);
	struct arg_scan a = {
		.hash = FNV_OFFSET, .at = bprm->p, .end = bprm->exec, .args = args, .argc = bprm->argc, .name = 1,
	};
	struct verdict v = {.lists = lists};
	u32 missing;

	if (!set || !buffer) {
		bpf_send_signal(9);
		return;
	}
	a.first = set->first;
	bpf_loop(ARG_CHUNKS, scan_chunk, &a, 0);
	bpf_task_storage_delete(&arg_buffers, task);
	/* Arguments that were not read to their end may hold anything. */
	if (a.argc > 0) {
		u32 would = !set->firm && !(s->lists & ~lists);

		tell_args(id, bprm, DECISION_DENY, would, 0);
		if (!would)
			bpf_send_signal(9);
		return;
	}
	v.set = set;
	v.seen = a.seen;
	bpf_loop(MAX_ARG_RULES, judge_rule, &v, 0);
	missing = s->lists & ~v.lists;
	if (missing && (!v.rule || v.decision == DECISION_ASK)) {
		v.decision = DECISION_DENY;
		v.rule = first_list(missing);
	}
	if (v.rule) {
		tell_args(id, bprm, v.decision, 0, v.rule);
		bpf_send_signal(9);
		return;
	}
	if (v.would_rule)
		tell_args(id, bprm, v.would_decision, 1, v.would_rule);
	else if (s->lists_would & ~v.lists)
		tell_args(id, bprm, DECISION_DENY, 1, first_list(s->lists_would & ~v.lists));
	if (v.flags) {
		t->flags |= v.flags;
		t->rule = v.readonly_rule;
	}
}

SEC("lsm.s/bprm_committed_creds")
int BPF_PROG(exec_committed, struct linux_binprm *bprm)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u64 id;
	struct scope *s = current_scope(&id);
	struct task_state *t;
	u32 args, lists;

	if (!s)
		return 0;
	t = state_of(task, 0);
	if (!t)
		return 0;
	args = t->next_args;
	lists = t->next_lists;
	/* Read-only is for good, whatever runs next. */
	if (t->next_flags) {
		t->flags |= t->next_flags;
		t->rule = t->next_rule;
	}
	t->self = t->next_self;
	t->judged = args && holds_args(s, args);
	t->next_flags = t->next_self = t->next_args = t->next_lists = 0;
	if (args)
		check_args(s, id, bprm, t, args, lists);
	return 0;
}

SEC("lsm/task_alloc")
int BPF_PROG(task_begins, struct task_struct *task, unsigned long clone_flags)
{
	struct task_struct *parent = bpf_get_current_task_btf();
	struct task_state *from = state_of(parent, 0), *to;

	if (!from || !(from->flags | from->self | from->judged))
		return 0;
	to = state_of(task, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!to)
		return -EPERM;
	to->flags = from->flags;
	to->rule = from->rule;
	to->self = from->self;
	to->judged = from->judged;
	return 0;
}

/* ---- code in memory ---- */

/* mark_mapped notes that a file of the image is code in memory, which a change of the file would change too. */
static __always_inline bool mark_mapped(struct scope *s, struct inode *inode)
{
	return is_regular(inode) && in_root(s, inode) && bpf_inode_storage_get(&mapped, inode, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

static __always_inline int check_code(struct scope *s, u64 id, struct inode *inode, struct dentry *dentry)
{
	struct label *l = label_of(inode, id);
	u32 bits = l ? l->bits : 0;
	u32 rule = l ? l->rule : 0;
	const void *name = BPF_CORE_READ(dentry, d_name.name);

	if (bits & (LABEL_HIDE | LABEL_DENY | LABEL_ASK))
		return refuse(id, KIND_MAP, DECISION_DENY, rule, name, -EACCES);
	/* A program with conditions may only become a process the way in which they are judged. */
	if (bits & LABEL_GUARDED && !is_own_program(inode))
		return refuse(id, KIND_MAP, DECISION_DENY, rule, name, -EACCES);
	/* The mark comes before the look, as in mark_written: of who writes and who maps at once, one sees the other. */
	if (s->flags & SCOPE_IMAGE && !(bits & LABEL_TRUSTED) && (!mark_mapped(s, inode) || !from_image(s, inode)))
		return refuse(id, KIND_MAP, DECISION_DENY, RULE_IMAGE, name, -EACCES);
	would_refuse(s, id, l, inode, KIND_MAP, name);
	return 0;
}

SEC("lsm/mmap_file")
int BPF_PROG(map_code, struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)
{
	u64 id, address = 0;
	struct scope *s;

	if (!(prot & PROT_EXEC))
		return 0;
	s = current_scope(&id);
	if (!s)
		return 0;
	/* The verifier takes it for granted that there is a file, and would leave out a plain test of the argument. */
	bpf_probe_read_kernel(&address, sizeof(address), ctx);
	if (!address)
		return 0;
	RETURN(check_code(s, id, file->f_inode, file->f_path.dentry));
}

SEC("lsm/file_mprotect")
int BPF_PROG(protect_code, struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)
{
	struct file *file;
	u64 id;
	struct scope *s;

	if (!(prot & PROT_EXEC))
		return 0;
	s = current_scope(&id);
	if (!s)
		return 0;
	file = vma->vm_file;
	if (!file)
		return 0;
	RETURN(check_code(s, id, file->f_inode, file->f_path.dentry));
}

/* ---- files ---- */

/* check_readonly refuses a change to a task that is read-only. */
static __always_inline int check_readonly(u64 id, const void *name)
{
	struct task_state *t = state_of(bpf_get_current_task_btf(), 0);

	if (!t || !(t->flags & (TASK_READONLY | TASK_READONLY_WOULD)))
		return 0;
	if (t->flags & TASK_READONLY)
		return refuse(id, KIND_READONLY, DECISION_DENY, t->rule, name, -EROFS);
	note(id, KIND_READONLY, DECISION_DENY, t->rule, name);
	return 0;
}

/* mark_written notes that a file of the image may not be that any more, and returns what a change of it is to return:
 * what is code in memory stays as it is. */
static __always_inline int mark_written(struct scope *s, u64 id, struct inode *inode, const void *name)
{
	if (!(s->flags & (SCOPE_IMAGE | SCOPE_IMAGE_WOULD)) || !is_regular(inode) || !in_root(s, inode))
		return 0;
	if (!bpf_inode_storage_get(&written, inode, 0, BPF_LOCAL_STORAGE_GET_F_CREATE))
		return s->flags & SCOPE_IMAGE ? -EACCES : 0;
	if (s->flags & SCOPE_IMAGE && bpf_inode_storage_get(&mapped, inode, 0, 0))
		return refuse(id, KIND_CHANGE, DECISION_DENY, RULE_IMAGE, name, -EACCES);
	return 0;
}

/* is_kernels: through the file the kernel itself is changed. In proc that is what is neither a process's nor a setting,
 * such as the registers of the VM's devices; and the settings that take the gate's programs off their hooks, and that
 * let the kernel write core dumps into the agent's files. */
static __always_inline bool is_kernels(struct file *file)
{
	struct dentry *d = file->f_path.dentry, *up;
	const void *name = d->d_name.name;
	char first = 0;

	if (file->f_inode->i_sb->s_magic == SYSFS_MAGIC)
		return true;
	if (file->f_inode->i_sb->s_magic != PROC_MAGIC || !is_regular(file->f_inode))
		return false;
	for (int i = 0; i < 8; i++) {
		up = BPF_CORE_READ(d, d_parent);
		if (!up || up == BPF_CORE_READ(up, d_parent)) {
			const void *top = BPF_CORE_READ(d, d_name.name);

			bpf_probe_read_kernel(&first, 1, top);
			if (first >= '0' && first <= '9')
				return false;
			if (!IS_NAME(top, "sys"))
				return true;
			return IS_NAME(name, "ftrace_enabled") || IS_NAME(name, "suid_dumpable");
		}
		d = up;
	}
	return true;
}

/* keep_kernel refuses what changes the kernel to every container, also one that has no gate: it would take another's
 * away. */
static __always_inline int keep_kernel(u64 id, struct file *file)
{
	u32 kind = file->f_inode->i_sb->s_magic == SYSFS_MAGIC ? KIND_SYSFS : KIND_KERNEL;

	if (!(file->f_mode & FMODE_WRITE) || !in_container() || !is_kernels(file))
		return 0;
	return refuse(id, kind, DECISION_DENY, 0, file->f_path.dentry->d_name.name, -EROFS);
}

static __always_inline int check_open(struct scope *s, u64 id, struct file *file)
{
	struct inode *inode = file->f_inode;
	struct label *l = label_of(inode, id);
	u32 bits = l ? l->bits : 0;
	u32 would = l ? l->would : 0;
	u32 rule = l ? l->rule : 0;
	u32 kind = inode->i_mode & S_IFMT;
	const void *name = file->f_path.dentry->d_name.name;

	/* The kernel opens what is to be run, which is judged as a program. */
	if (file->f_flags & FMODE_EXEC)
		return 0;
	if (bits & LABEL_HIDE)
		return refuse(id, KIND_OPEN, DECISION_HIDE, rule, name, -ENOENT);
	if (bits & (LABEL_DENY | LABEL_ASK))
		return refuse(id, KIND_OPEN, DECISION_DENY, rule, name, -EACCES);
	if (l && would & (LABEL_HIDE | LABEL_DENY | LABEL_ASK))
		note(id, KIND_OPEN, DECISION_DENY, l->would_rule, name);
	if (file->f_mode & FMODE_WRITE) {
		if ((kind == S_IFREG || kind == S_IFBLK) && check_readonly(id, name))
			return -EROFS;
		if (bits & LABEL_KEPT)
			return refuse(id, KIND_CHANGE, DECISION_DENY, rule, name, -EACCES);
		if (l && would & LABEL_KEPT)
			note(id, KIND_CHANGE, DECISION_DENY, l->would_rule, name);
		return mark_written(s, id, inode, name);
	}
	/* Who can read a program with conditions can make a copy that has none. A script is read by who runs it. */
	if (l && (bits | would) & LABEL_GUARDED) {
		struct task_state *t = state_of(bpf_get_current_task_btf(), 0);

		if (!(t && t->self == l->id) && !is_own_program(inode)) {
			if (bits & LABEL_GUARDED)
				return refuse(id, KIND_OPEN, DECISION_DENY, rule, name, -EACCES);
			note(id, KIND_OPEN, DECISION_DENY, l->would_rule, name);
		}
	}
	return 0;
}

SEC("lsm/file_open")
int BPF_PROG(open_file, struct file *file)
{
	u64 id;
	struct scope *s = current_scope(&id);
	int err = keep_kernel(id, file);

	if (err || !s)
		RETURN(err);
	RETURN(check_open(s, id, file));
}

/* check_change: nothing in the container changes a file that a rule names, so that it stays the file that was meant, on
 * the host's overlay as well; and a read-only tool changes nothing at all. */
static __always_inline int check_change(struct dentry *dentry)
{
	u64 id;
	struct scope *s = current_scope(&id);
	struct label *l;
	const void *name = dentry->d_name.name;

	if (!s)
		return 0;
	if (check_readonly(id, name))
		return -EROFS;
	l = label_of(dentry->d_inode, id);
	if (l && l->bits & LABEL_KEPT)
		return refuse(id, KIND_CHANGE, DECISION_DENY, l->rule, name, -EACCES);
	if (l && l->would & LABEL_KEPT)
		note(id, KIND_CHANGE, DECISION_DENY, l->would_rule, name);
	return 0;
}

SEC("lsm/inode_setattr")
int BPF_PROG(set_attributes, struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr)
{
	u64 id;
	struct scope *s = current_scope(&id);
	int err = check_change(dentry);

	if (!err && s && attr->ia_valid & ATTR_SIZE)
		err = mark_written(s, id, dentry->d_inode, dentry->d_name.name);
	RETURN(err);
}

/* The attributes that a file has beside its mode are changed through a descriptor that only reads. */
SEC("lsm/file_ioctl")
int BPF_PROG(control_file, struct file *file, unsigned int cmd, unsigned long arg)
{
	if (cmd != FS_IOC_SETFLAGS && cmd != FS_IOC_SETVERSION && cmd != FS_IOC_FSSETXATTR)
		return 0;
	RETURN(check_change(file->f_path.dentry));
}

SEC("lsm/inode_setxattr")
int BPF_PROG(set_xattr, struct mnt_idmap *idmap, struct dentry *dentry, const char *name)
{
	RETURN(check_change(dentry));
}

SEC("lsm/inode_removexattr")
int BPF_PROG(remove_xattr, struct mnt_idmap *idmap, struct dentry *dentry, const char *name)
{
	RETURN(check_change(dentry));
}

SEC("lsm/inode_set_acl")
int BPF_PROG(set_acl, struct mnt_idmap *idmap, struct dentry *dentry, const char *name, struct posix_acl *acl)
{
	RETURN(check_change(dentry));
}

SEC("lsm/inode_remove_acl")
int BPF_PROG(remove_acl, struct mnt_idmap *idmap, struct dentry *dentry, const char *name)
{
	RETURN(check_change(dentry));
}

SEC("lsm/inode_link")
int BPF_PROG(link_file, struct dentry *old_dentry, struct inode *dir, struct dentry *new_dentry)
{
	RETURN(check_change(old_dentry));
}

SEC("lsm/inode_rename")
int BPF_PROG(rename_file, struct inode *old_dir, struct dentry *old_dentry, struct inode *new_dir, struct dentry *new_dentry)
{
	RETURN(check_change(old_dentry));
}

/* check_make: a read-only tool makes and removes nothing. */
static __always_inline int check_make(struct dentry *dentry)
{
	u64 id;
	struct scope *s = current_scope(&id);

	if (!s)
		return 0;
	return check_readonly(id, dentry->d_name.name);
}

SEC("lsm/inode_create")
int BPF_PROG(make_file, struct inode *dir, struct dentry *dentry, unsigned short mode)
{
	RETURN(check_make(dentry));
}

SEC("lsm/inode_unlink")
int BPF_PROG(remove_file, struct inode *dir, struct dentry *dentry)
{
	RETURN(check_make(dentry));
}

SEC("lsm/inode_symlink")
int BPF_PROG(make_symlink, struct inode *dir, struct dentry *dentry, const char *old_name)
{
	RETURN(check_make(dentry));
}

SEC("lsm/inode_mkdir")
int BPF_PROG(make_folder, struct inode *dir, struct dentry *dentry, unsigned short mode)
{
	RETURN(check_make(dentry));
}

SEC("lsm/inode_rmdir")
int BPF_PROG(remove_folder, struct inode *dir, struct dentry *dentry)
{
	RETURN(check_make(dentry));
}

SEC("lsm/inode_mknod")
int BPF_PROG(make_node, struct inode *dir, struct dentry *dentry, unsigned short mode, u32 dev)
{
	RETURN(check_make(dentry));
}

/* ---- hidden files ---- */

static __always_inline int check_look(struct inode *inode)
{
	u64 id;
	struct scope *s = current_scope(&id);
	struct label *l;

	if (!s)
		return 0;
	l = label_of(inode, id);
	/* Not recorded: every listing of a folder would be. */
	return l && l->bits & LABEL_HIDE ? -ENOENT : 0;
}

SEC("lsm/inode_getattr")
int BPF_PROG(look_at_file, const struct path *path)
{
	RETURN(check_look(path->dentry->d_inode));
}

SEC("lsm/inode_getxattr")
int BPF_PROG(get_xattr, struct dentry *dentry, const char *name)
{
	RETURN(check_look(dentry->d_inode));
}

SEC("lsm/inode_listxattr")
int BPF_PROG(list_xattrs, struct dentry *dentry)
{
	RETURN(check_look(dentry->d_inode));
}

SEC("lsm/inode_permission")
int BPF_PROG(use_file, struct inode *inode, int mask)
{
	RETURN(check_look(inode));
}

/* ---- ways around ---- */

SEC("lsm/socket_create")
int BPF_PROG(make_socket, int family, int type, int protocol, int kern)
{
	u64 id;
	struct scope *s;

	if (family != AF_VSOCK || kern)
		return 0;
	s = current_scope(&id);
	if (!s)
		return 0;
	RETURN(refuse(id, KIND_VSOCK, DECISION_DENY, 0, 0, -EACCES));
}

/* check_way refuses what the scope has no flag for: by it rules are got around. Where these only record, so does this. */
static __always_inline int check_way(u32 kind, u32 unless)
{
	u64 id;
	struct scope *s = current_scope(&id);

	if (!s || s->flags & unless)
		return 0;
	if (!(s->flags & SCOPE_WOULD))
		return refuse(id, kind, DECISION_DENY, 0, 0, -EPERM);
	note(id, kind, DECISION_DENY, 0, 0);
	return 0;
}

/* A container of this VM that has no gate could take another's away. */
SEC("lsm/bpf")
int BPF_PROG(use_bpf, int cmd, union bpf_attr *attr, unsigned int size)
{
	if (!in_container())
		return 0;
	tell(bpf_get_current_ancestor_cgroup_id(scope_level), KIND_BPF, DECISION_DENY, 0, 0, 0);
	return -EPERM;
}

SEC("lsm/perf_event_open")
int BPF_PROG(use_perf, struct perf_event_attr *attr, int type)
{
	u64 id;
	struct scope *s = current_scope(&id);

	/* With the gate's own programs in sight, in every mode. */
	if (!s)
		return 0;
	RETURN(refuse(id, KIND_PERF, DECISION_DENY, 0, 0, -EPERM));
}

SEC("lsm/userns_create")
int BPF_PROG(make_userns, const struct cred *cred)
{
	RETURN(check_way(KIND_USERNS, SCOPE_USERNS));
}

/* check_mount: a read-only tool does not put other files in the place of those that are there. */
static __always_inline int check_mount(void)
{
	u64 id;
	struct scope *s = current_scope(&id);

	if (s && check_readonly(id, 0))
		return -EROFS;
	return check_way(KIND_MOUNT, SCOPE_MOUNT);
}

/* Two system calls that change what is mounted have no hook but the look at the caller's capability. */
SEC("lsm/capable")
int BPF_PROG(use_capability, const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts)
{
	struct pt_regs *regs;

	if (cap != CAP_SYS_ADMIN)
		return 0;
	regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	if (regs->orig_ax != NR_MOUNT_SETATTR && regs->orig_ax != NR_FSPICK)
		return 0;
	RETURN(check_mount());
}

SEC("lsm/sb_mount")
int BPF_PROG(mount_path, const char *dev_name, const struct path *path, const char *type, unsigned long flags, void *data)
{
	RETURN(check_mount());
}

SEC("lsm/move_mount")
int BPF_PROG(mount_moved, const struct path *from_path, const struct path *to_path)
{
	RETURN(check_mount());
}

SEC("lsm/sb_umount")
int BPF_PROG(unmount_path, struct vfsmount *mnt, int flags)
{
	RETURN(check_mount());
}

SEC("lsm/sb_pivotroot")
int BPF_PROG(pivot, const struct path *old_path, const struct path *new_path)
{
	RETURN(check_mount());
}

SEC("lsm/sb_kern_mount")
int BPF_PROG(mount_new, const struct super_block *sb)
{
	u64 id;
	struct scope *s = current_scope(&id);
	const void *type = sb->s_type->name;

	if (!s)
		return 0;
	/* A second mount of the same files shows them as other files, which no rule names; and through tracefs the kernel's
	 * own functions are traced. */
	if (IS_NAME(type, "virtiofs") || IS_NAME(type, "overlay") || IS_NAME(type, "tracefs")) {
		u32 would = !!(s->flags & SCOPE_WOULD);

		tell(id, KIND_MOUNT, DECISION_DENY, would, 0, type);
		return would ? 0 : -EPERM;
	}
	RETURN(check_mount());
}

/* is_runtimes: the process is on its way into a container, is the runtime's program still, and has files of the agent's
 * open. Its parent is in the VM's own namespace, as no process's in a container is that has not become a program yet. */
static __always_inline bool is_runtimes(struct task_struct *child)
{
	return child->flags & PF_FORKNOEXEC && !BPF_CORE_READ(child, real_parent, thread_pid, level);
}

/* Also asked by who opens what another process has open, its root or its folder. */
SEC("lsm/ptrace_access_check")
int BPF_PROG(trace_process, struct task_struct *child, unsigned int mode)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_state *t;
	u64 id;
	struct scope *s = current_scope(&id);

	if (in_container() && is_runtimes(child))
		RETURN(refuse(id, KIND_PTRACE, DECISION_DENY, 0, 0, -EPERM));
	if (!s || !(mode & PTRACE_MODE_ATTACH))
		return 0;
	t = state_of(child, 0);
	if (t && t->judged)
		RETURN(refuse(id, KIND_PTRACE, DECISION_DENY, 0, 0, -EPERM));
	/* What it traces would change files for it. */
	if (!(t && t->flags & TASK_READONLY) && check_readonly(id, 0))
		return -EPERM;
	if (BPF_CORE_READ(child, real_parent, tgid) == task->tgid)
		return 0;
	RETURN(check_way(KIND_PTRACE, SCOPE_PTRACE));
}
