/* A loop without a bound that the verifier could see: may_goto ends it if nothing else does. */
#include "common.h"

long rounds;

#define may_goto_out(label) asm volatile goto("may_goto %l[" #label "]" : : : : label)

SEC("fentry/six")
int BPF_PROG(on_six, long a, long b) {
  long limit = b * 1000;
  for (long i = 0; i < limit; i++) {
    may_goto_out(out);
    rounds++;
  }
out:
  return 0;
}
