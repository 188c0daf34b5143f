/* Refused: a buffer on the stack that is smaller than what is read into it. */
#include "../common.h"

int result;

SEC("fentry/greet")
int BPF_PROG(on_greet, const char *name) {
  char text[16];
  bpf_probe_read_user(text, 32, name); /* HERE */
  result = text[3];
  return 0;
}

SEC("fentry/greet")
int BPF_PROG(on_greet_whole, const char *name) {
  char text[32];
  bpf_probe_read_user(text, 32, name);
  result = text[3];
  return 0;
}
