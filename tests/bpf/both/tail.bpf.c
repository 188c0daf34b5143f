/* Tail calls through a program array that the file fills. */
#include "test_run.h"

__u64 called, tailed, fell_through;

int on_tail(void *ctx);
struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 2);
  __uint(key_size, 4);
  __array(values, int(void *));
} jumps SEC(".maps") = {.values = {[0] = (void *)&on_tail}};

SEC("fentry/bpf_fentry_test1")
int on_tail(void *ctx) {
  tailed++;
  return 0;
}

SEC("fentry/bpf_fentry_test1")
int calls(void *ctx) {
  called++;
  bpf_tail_call(ctx, &jumps, called & 1);
  fell_through++;
  return 0;
}
