/* Refused: the result of a look-up is used without a test. */
#include "../common.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16);
  __type(key, int);
  __type(value, __u64);
} counts SEC(".maps");

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  __u64 *count = bpf_map_lookup_elem(&counts, &a);
  __sync_fetch_and_add(count, 1); /* HERE */
  return 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2_tested, int a, int b) {
  __u64 *count = bpf_map_lookup_elem(&counts, &a);
  if (count) __sync_fetch_and_add(count, 1);
  return 0;
}
