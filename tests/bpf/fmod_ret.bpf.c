/* Modify-return: the function does not run, and its caller gets the program's result. */
#include "common.h"

int asked;

SEC("fmod_ret/maybe")
int BPF_PROG(on_maybe, int n) {
  asked++;
  return n == 2 ? -7 : 0;
}
