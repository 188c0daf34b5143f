/* A stack through frames whose returns are traced: their callers' own addresses stand there, not ours. */
#include "common.h"

__u64 frames[16], frames_at_exit[16];
__u64 ip;
long bytes, bytes_at_exit, returns;

SEC("fentry/leaf")
int BPF_PROG(on_leaf, int n) {
  ip = bpf_get_func_ip(ctx);
  bytes = bpf_get_stack(ctx, frames, sizeof(frames), BPF_F_USER_STACK);
  return 0;
}

SEC("fexit/leaf")
int BPF_PROG(after_leaf, int n) {
  bytes_at_exit = bpf_get_stack(ctx, frames_at_exit, sizeof(frames_at_exit), BPF_F_USER_STACK);
  return 0;
}

SEC("fexit.multi/caller_*,main")
int BPF_PROG(after_caller) {
  __sync_fetch_and_add(&returns, 1);
  return 0;
}
