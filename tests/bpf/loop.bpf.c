/* bpf_loop: a callback with a context of its own, ended early, and loops that the compiler keeps. */
#include "common.h"

struct context {
  long sum;
  int stop_at;
};
long sum, rounds, stopped, too_many, bounded;

static long add(__u32 index, void *data) {
  struct context *context = data;
  if (index == context->stop_at) return 1;
  context->sum += index;
  return 0;
}

SEC("fentry/six")
int BPF_PROG(on_six, long a, long b) {
  struct context context = {.sum = 0, .stop_at = -1};
  rounds = bpf_loop(1000, add, &context, 0);
  sum = context.sum;
  context.stop_at = 10;
  stopped = bpf_loop(1000, add, &context, 0);
  too_many = bpf_loop(1 << 24, add, &context, 0);
  for (int i = 0; i < 200; i++) {
    barrier_var(i);
    bounded += i * b;
  }
  return 0;
}
