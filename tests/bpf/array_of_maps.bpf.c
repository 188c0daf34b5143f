/* An array of maps, filled in the file: even calls count in one map, odd ones in the other. */
#include "common.h"

struct counts {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u64);
} even SEC(".maps"), odd SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 3);
  __type(key, __u32);
  __array(values, struct counts);
} both SEC(".maps") = {.values = {&even, &odd}};

int empty;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  __u32 which = a & 1, index = (__u32)a % 4;
  void *counts = bpf_map_lookup_elem(&both, &which);
  if (!counts) return 0;
  __u64 *count = bpf_map_lookup_elem(counts, &index);
  if (count) __sync_fetch_and_add(count, 1);
  which = 2;
  if (!bpf_map_lookup_elem(&both, &which)) empty++;
  return 0;
}
