/* What the kernel's tests need of a vmlinux.h: the interface's types, and names for the integers. */
#pragma once

#include <linux/types.h>
#include <stdbool.h>
#include <linux/bpf.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef unsigned long size_t;
typedef __s32 pid_t;

typedef long long loff_t;
typedef struct bpf_user_pt_regs {
	u64 ip;
} bpf_user_pt_regs_t;
#define pt_regs bpf_user_pt_regs

struct bpf_perf_event_data {
	bpf_user_pt_regs_t regs;
	u64 sample_period;
	u64 addr;
};
/* Members that programs name; where they are, a kernel would say. */
struct task_struct {
	pid_t pid;
	pid_t tgid;
	u64 start_boottime;
	struct task_struct *last_wakee;
	struct task_struct *group_leader;
	struct task_struct *parent;
};
struct cgroup {
	int level;
};
struct bpf_map {
	u32 id;
	u32 map_type;
	struct bpf_map *inner_map_meta;
};
struct bpf_iter_bits {
	u64 opaque[2];
};
struct bpf_dummy_ops_state;
struct bpf_dummy_ops {
	int (*test_1)(struct bpf_dummy_ops_state *state);
	int (*test_2)(struct bpf_dummy_ops_state *state);
};
struct sk_buff;
struct sock;
struct file;
struct path;
struct pt_regs;
struct user_pt_regs;
struct user_regs_struct;
