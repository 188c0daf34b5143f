/* Refused: an index into an array on the stack that is not bounded. */
#include "../common.h"

int result;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  volatile char seen[16];
  for (int i = 0; i < 16; i++) seen[i] = i;
  result = seen[b & 63]; /* HERE */
  return 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2_bounded, int a, int b) {
  volatile char seen[16];
  for (int i = 0; i < 16; i++) seen[i] = i;
  result = seen[b & 15];
  return 0;
}
