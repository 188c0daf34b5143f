/* The stack of whoever calls abort, before the process dies of it. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct dying {
  char command[16];
  __u32 thread;
  __u32 depth;
  void *frames[32];
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 16 * 1024);
  __type(value, struct dying);
} aborts SEC(".maps");

SEC("fentry/libc:abort")
int BPF_PROG(on_abort) {
  struct dying *dying = bpf_ringbuf_reserve(&aborts, sizeof(*dying), 0);
  if (!dying) return 0;
  __builtin_memset(dying, 0, sizeof(*dying));
  dying->thread = bpf_get_current_pid_tgid();
  bpf_get_current_comm(dying->command, sizeof(dying->command));
  long bytes = bpf_get_stack(ctx, dying->frames, sizeof(dying->frames), BPF_F_USER_STACK);
  dying->depth = bytes > 0 ? bytes / sizeof(void *) : 0;
  bpf_ringbuf_submit(dying, 0);
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
