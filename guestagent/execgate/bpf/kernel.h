/* The few members of kernel structures that the gate reads. The loader finds where they are in the running kernel from
 * its BTF, so nothing here says at what offset, and a member that is missing is an error when the gate is loaded. */
#ifndef NANOCLAW_EXECGATE_KERNEL_H
#define NANOCLAW_EXECGATE_KERNEL_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct file_system_type {
	const char *name;
};

struct super_block {
	u32 s_dev;
	unsigned long s_magic;
	struct file_system_type *s_type;
};

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
	s64 i_ctime_sec;
	u32 i_ctime_nsec;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};

struct path {
	struct dentry *dentry;
};

struct file {
	unsigned int f_mode;
	unsigned int f_flags;
	struct path f_path;
	struct inode *f_inode;
};

struct mm_struct {
	struct file *exe_file;
};

struct vm_area_struct {
	struct file *vm_file;
};

struct pid {
	unsigned int level;
};

struct task_struct {
	unsigned int flags;
	unsigned int ptrace;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct pid *thread_pid;
	struct mm_struct *mm;
};

struct linux_binprm {
	unsigned long p;
	unsigned long exec;
	struct file *file;
	int argc;
	const char *filename;
};

struct iattr {
	unsigned int ia_valid;
};

struct pt_regs {
	unsigned long orig_ax;
};

#pragma clang attribute pop

/* Only passed on. */
struct cred;
struct user_namespace;
struct mnt_idmap;
struct posix_acl;
struct vfsmount;
struct perf_event_attr;

#endif
