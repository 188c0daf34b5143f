/* Subprograms: static and global, nested, with several arguments and their own stacks, shared by programs. */
#include "common.h"

long deep, shared_calls, from_exit;

static __noinline int weigh(int a, int b, int c, int d, int e) {
  volatile int own[8];
  for (int i = 0; i < 8; i++) own[i] = a + i;
  return own[b & 7] + c * 2 + d * 3 + e * 4;
}

__noinline int middle(int a, int b) {
  shared_calls++;
  return weigh(a, b, 3, 4, 5) + 1;
}

__noinline int outermost(int a) {
  return middle(a, 2) + middle(a, 3);
}

SEC("fentry/six")
int BPF_PROG(on_six, long a) {
  deep = outermost(a);
  return 0;
}

SEC("fexit/six")
int BPF_PROG(on_six_exit, long a) {
  from_exit = middle(7, 1);
  return 0;
}
