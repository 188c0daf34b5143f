/* Refused: two frames that together are too large. */
#include "../common.h"

int result;

static __noinline int fill(int seed) {
  volatile char own[320];
  for (int i = 0; i < 320; i++) own[i] = seed;
  return own[seed & 127];
}

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  volatile char buffer[320];
  for (int i = 0; i < 320; i++) buffer[i] = a;
  result = fill(a) + buffer[b & 127];
  return 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2_small, int a, int b) {
  volatile char buffer[128];
  for (int i = 0; i < 128; i++) buffer[i] = a;
  result = fill(a) + buffer[b & 127];
  return 0;
}
