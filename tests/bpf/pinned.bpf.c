/* A map that is pinned by its name: its counts go on in the next run. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 64);
  __type(key, int);
  __type(value, __u64);
  __uint(pinning, LIBBPF_PIN_BY_NAME);
} lasting SEC(".maps");

SEC("fentry/negative")
int BPF_PROG(on_negative, int n) {
  __u64 one = 1, *count = bpf_map_lookup_elem(&lasting, &n);
  if (count)
    __sync_fetch_and_add(count, 1);
  else
    bpf_map_update_elem(&lasting, &n, &one, BPF_NOEXIST);
  return 0;
}
