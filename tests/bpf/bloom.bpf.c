/* A bloom filter: what was pushed is in it. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
  __uint(max_entries, 1000);
  __type(value, int);
  __uint(map_extra, 3);
} filter SEC(".maps");

int known, unknown, never;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  if (a < 50) {
    bpf_map_push_elem(&filter, &a, BPF_ANY);
    if (bpf_map_peek_elem(&filter, &a) == 0) known++;
  } else {
    int other = a + 1000000;
    if (bpf_map_peek_elem(&filter, &other) == -ENOENT) unknown++;
  }
  return 0;
}
