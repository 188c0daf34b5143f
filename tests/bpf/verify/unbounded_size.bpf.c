/* Refused: a size that may be more than there is room for. */
#include "../common.h"

char text[64];

SEC("fentry/six")
int BPF_PROG(on_six, __u64 p, __u64 size) {
  bpf_probe_read_user(text, size, (void *)p); /* HERE */
  return 0;
}

SEC("fentry/six")
int BPF_PROG(on_six_bounded, __u64 p, __u64 size) {
  if (size > sizeof text) return 0;
  bpf_probe_read_user(text, size, (void *)p);
  return 0;
}
