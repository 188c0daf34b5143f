/* Modify-return programs that leave a function alone or stand in for it, between programs that see it. */
#include "test_run.h"

int give, modified, entered, left, result_at_exit, argument;

SEC("fentry/bpf_modify_return_test")
int BPF_PROG(before, int a, int *b) {
  entered++;
  return 0;
}

SEC("fmod_ret/bpf_modify_return_test")
int BPF_PROG(modify, int a, int *b, int r) {
  modified++;
  argument = a;
  return give;
}

SEC("fexit/bpf_modify_return_test")
int BPF_PROG(after, int a, int *b, int r) {
  left++;
  result_at_exit = r;
  return 0;
}
