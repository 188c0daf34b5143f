/* Refused: a helper that may sleep, in a program that may not. */
#include "../common.h"

SEC("fentry/greet")
int BPF_PROG(on_greet, const char *name) {
  char first;
  bpf_copy_from_user(&first, 1, name); /* HERE */
  return 0;
}

SEC("fentry.s/greet")
int BPF_PROG(on_greet_asleep, const char *name) {
  char first;
  bpf_copy_from_user(&first, 1, name);
  return 0;
}
