/* An LRU per-CPU hash. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
  __uint(max_entries, 8);
  __type(key, int);
  __type(value, __u64);
} recent SEC(".maps");

int inserted, failed;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  __u64 value = b;
  if (bpf_map_update_elem(&recent, &a, &value, BPF_ANY))
    failed++;
  else
    inserted++;
  return 0;
}
