/* An open-coded iterator over numbers, and a kernel function that there is not. */
#include "common.h"

struct bpf_iter_num {
  __u64 opaque[1];
} __attribute__((aligned(8)));
extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __ksym;
extern void bpf_no_such_thing(void) __ksym __weak;

long sum, rounds, there;

SEC("fentry/six")
int BPF_PROG(on_six, long a) {
  struct bpf_iter_num it;
  int *n;
  bpf_iter_num_new(&it, 5, 105);
  while ((n = bpf_iter_num_next(&it))) {
    sum += *n;
    rounds++;
  }
  bpf_iter_num_destroy(&it);
  if (bpf_no_such_thing) {
    bpf_no_such_thing();
    there = 1;
  }
  return 0;
}
