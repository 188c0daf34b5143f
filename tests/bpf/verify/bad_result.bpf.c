/* Refused: an fentry program whose result is not 0. */
#include "../common.h"

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  return a; /* HERE */
}

SEC("fmod_ret/add2")
int BPF_PROG(on_add2_changed, int a, int b, int result) {
  return a;
}
