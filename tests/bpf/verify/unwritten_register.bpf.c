/* Refused: a register that nothing was written to. */
#include "../common.h"

int result;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  asm volatile("%0 = r9" : "=r"(result)); /* HERE */
  return 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2_written, int a, int b) {
  asm volatile("r9 = 7; %0 = r9" : "=r"(result) : : "r9");
  return 0;
}
