/* Refused: a write to constants, through a pointer that hides it from the compiler. */
#include "../common.h"

const volatile int limit = 5;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  *(volatile int *)&limit = a; /* HERE */
  return 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2_unused, int a, int b) {
  /* Constants are known: this is never walked. */
  if (limit == 6) return 1;
  return 0;
}
