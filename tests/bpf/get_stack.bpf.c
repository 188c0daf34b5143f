/* A stack as addresses: the first is in the traced function, the second in its caller. */
#include "common.h"

__u64 frames[16];
__u64 ip;
long bytes;

SEC("fentry/leaf")
int BPF_PROG(on_leaf, int n) {
  ip = bpf_get_func_ip(ctx);
  bytes = bpf_get_stack(ctx, frames, sizeof(frames), BPF_F_USER_STACK);
  return 0;
}
