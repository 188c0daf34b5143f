/* A per-CPU hash: a value for each thread under each key; another CPU's value is zero, or read with its number. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
  __uint(max_entries, 64);
  __type(key, long);
  __type(value, __u64);
} counts SEC(".maps");

__u64 others;

SEC("fentry/tick")
int BPF_PROG(on_tick, long thread, long i) {
  long key = (__u64)i % 4;
  __u64 one = 1;
  __u64 *count = bpf_map_lookup_elem(&counts, &key);
  if (count)
    *count += 1;
  else if (bpf_map_update_elem(&counts, &key, &one, BPF_NOEXIST)) {
    count = bpf_map_lookup_elem(&counts, &key);
    if (count) *count += 1;
  }
  count = bpf_map_lookup_percpu_elem(&counts, &key, bpf_get_smp_processor_id());
  if (!count || *count == 0) __sync_fetch_and_add(&others, 1);
  return 0;
}
