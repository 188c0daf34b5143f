/* A per-CPU array: every thread adds to a value of its own, without atomics. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, __u64);
} counts SEC(".maps");

SEC("fentry/tick")
int BPF_PROG(on_tick, long thread, long i) {
  __u32 index = i & 1;
  __u64 *count = bpf_map_lookup_elem(&counts, &index);
  if (count) *count += 1;
  return 0;
}
