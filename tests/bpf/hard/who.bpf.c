/* What programs know of where they are: who, when, and the stack; and a record of it. */
#include "../common.h"

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 65536);
} events SEC(".maps");

__u64 calls, pid_tgid, time, ip, frames[8], returns;
char comm[16];
long bytes, copied;

SEC("fentry/compute")
int BPF_PROG(on_compute) {
  __sync_fetch_and_add(&calls, 1);
  pid_tgid = bpf_get_current_pid_tgid();
  time = bpf_ktime_get_ns();
  ip = bpf_get_func_ip(ctx);
  bpf_get_current_comm(comm, sizeof(comm));
  bytes = bpf_get_stack(ctx, frames, sizeof(frames), BPF_F_USER_STACK);
  __u64 now = time;
  if (!(calls & 1023)) bpf_ringbuf_output(&events, &now, sizeof(now), 0);
  return 0;
}

SEC("fexit/compute")
int BPF_PROG(after_compute) {
  __sync_fetch_and_add(&returns, 1);
  return 0;
}
