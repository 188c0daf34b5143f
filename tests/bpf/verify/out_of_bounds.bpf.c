/* Refused: an index that is not bounded. */
#include "../common.h"

__u64 table[16];

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  table[b & 31]++; /* HERE */
  return 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2_bounded, int a, int b) {
  table[b & 15]++;
  return 0;
}
