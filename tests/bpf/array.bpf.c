/* An array: look-up, atomic add, update, an index outside. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 8);
  __type(key, __u32);
  __type(value, __u64);
} sums SEC(".maps");

int outside, updated, refused;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  __u32 index = (__u32)a % 8;
  __u64 *sum = bpf_map_lookup_elem(&sums, &index);
  if (sum) __sync_fetch_and_add(sum, b);
  index = 8;
  if (!bpf_map_lookup_elem(&sums, &index)) outside++;
  return 0;
}

SEC("fentry/six")
int BPF_PROG(on_six, long a) {
  __u32 index = 7;
  __u64 value = 1000;
  updated = bpf_map_update_elem(&sums, &index, &value, BPF_ANY);
  refused = bpf_map_update_elem(&sums, &index, &value, BPF_NOEXIST);
  return 0;
}
