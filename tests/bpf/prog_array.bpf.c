/* Tail calls: to another program, to an empty element, and around until the limit of 33. */
#include "common.h"

int on_add2_even(void *ctx);
int around(void *ctx);

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 4);
  __uint(key_size, sizeof(__u32));
  __array(values, int(void *));
} jumps SEC(".maps") = {.values = {[0] = (void *)&on_add2_even, [2] = (void *)&around}};

int evens, odds, rounds, fell_through;

SEC("fentry")
int on_add2_even(void *ctx) {
  evens++;
  return 0;
}

SEC("fentry")
int around(void *ctx) {
  rounds++;
  bpf_tail_call(ctx, &jumps, 2);
  fell_through++;
  return 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  bpf_tail_call(ctx, &jumps, a & 1);
  odds++;
  return 0;
}

SEC("fentry/six")
int BPF_PROG(on_six) {
  bpf_tail_call(ctx, &jumps, 2);
  return 0;
}
