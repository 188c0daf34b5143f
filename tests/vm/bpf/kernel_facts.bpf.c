/*
 * What only a kernel has: its own functions for programs, its variables with and without types, its settings, its types
 * by id and value, its current task, and every kind of record. On getpgid(2), which nothing else calls meanwhile.
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <stdbool.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct task_struct {
	int pid;
	int tgid;
	char comm[16];
};
struct pt_regs {
	unsigned long di;
};
struct rq {
	int cpu;
};
enum bpf_prog_type___of_kernel { BPF_PROG_TYPE_TRACING___of_kernel = 1000 };
#pragma clang attribute pop

char LICENSE[] SEC("license") = "GPL";

struct event {
	int pid;
	long argument;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
	__type(value, struct event);
} ring SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} perf SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, long);
} per_cpu SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, int);
	__type(value, struct event);
} hash SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 16);
	__uint(key_size, 4);
	__uint(value_size, 127 * 8);
} stacks SEC(".maps");

extern int LINUX_KERNEL_VERSION __kconfig;
extern const void jiffies_64 __ksym __weak;
extern const struct rq runqueues __ksym __weak;
extern const void no_such_variable __ksym __weak;
extern struct task_struct *bpf_task_from_pid(int pid) __ksym __weak;
extern void bpf_task_release(struct task_struct *task) __ksym __weak;
extern void bpf_no_such_function(void) __ksym __weak;

const volatile int step = 1;
int version, tgid, stack_id, last_result;
long total, jiffies_address;
int task_type, comm_offset, tracing_number, has_pid, has_nothing = 1;
int cpu_of_queue = -1, found_pid = -1, missing_function = -1, missing_variable = -1;

struct task_struct___nothing {
	int no_such_member;
} __attribute__((preserve_access_index));

SEC("fentry/__x64_sys_getpgid")
int BPF_PROG(records, struct pt_regs *regs)
{
	struct event *reserved, copy = {};
	int key = regs->di, zero = 0;
	long *value;

	copy.pid = bpf_get_current_pid_tgid() >> 32;
	copy.argument = key;
	bpf_get_current_comm(copy.comm, sizeof(copy.comm));
	reserved = bpf_ringbuf_reserve(&ring, sizeof(*reserved), 0);
	if (!reserved)
		return 0;
	*reserved = copy;
	bpf_ringbuf_submit(reserved, 0);
	bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &copy, sizeof(copy));
	bpf_map_update_elem(&hash, &key, &copy, 0);
	value = bpf_map_lookup_elem(&per_cpu, &zero);
	if (value)
		*value += step;
	stack_id = bpf_get_stackid(ctx, &stacks, 0);
	__sync_fetch_and_add(&total, step);
	bpf_printk("getpgid of %d", key);
	return 0;
}

SEC("fentry/__x64_sys_getpgid")
int BPF_PROG(facts, struct pt_regs *regs)
{
	struct task_struct *current = (void *)bpf_get_current_task();
	struct rq *queue;

	version = LINUX_KERNEL_VERSION;
	tgid = BPF_CORE_READ(current, tgid);
	jiffies_address = (long)&jiffies_64;
	missing_variable = &no_such_variable ? 1 : 0;
	missing_function = bpf_no_such_function ? 1 : 0;
	task_type = bpf_core_type_id_kernel(struct task_struct);
	comm_offset = bpf_core_field_offset(struct task_struct, comm);
	has_pid = bpf_core_field_exists(struct task_struct, pid);
	has_nothing = bpf_core_field_exists(struct task_struct___nothing, no_such_member);
	tracing_number = bpf_core_enum_value(enum bpf_prog_type___of_kernel, BPF_PROG_TYPE_TRACING___of_kernel);
	if (&runqueues) {
		queue = bpf_per_cpu_ptr(&runqueues, 0);
		if (queue)
			cpu_of_queue = queue->cpu;
	}
	if (bpf_task_from_pid) {
		struct task_struct *task = bpf_task_from_pid(regs->di);

		if (task) {
			found_pid = task->tgid;
			bpf_task_release(task);
		}
	}
	return 0;
}

SEC("fexit/__x64_sys_getpgid")
int BPF_PROG(result, struct pt_regs *regs, long ret)
{
	last_result = ret;
	return 0;
}
