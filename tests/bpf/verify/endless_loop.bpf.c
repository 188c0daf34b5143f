/* Refused: a loop that nothing ends. */
#include "../common.h"

volatile int stop;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  while (!stop) barrier(); /* HERE */
  return 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2_counted, int a, int b) {
  for (int i = 0; i < 100 && !stop; i++) barrier();
  return 0;
}
