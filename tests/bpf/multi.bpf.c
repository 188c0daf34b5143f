/* One program on many functions: a glob, an exclusion-free list, a count for each by its address. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 64);
  __type(key, void *);
  __type(value, __u64);
} calls SEC(".maps");

SEC("fentry.multi/caller_*,leaf,negative")
int BPF_PROG(on_call) {
  void *ip = (void *)bpf_get_func_ip(ctx);
  __u64 one = 1, *count = bpf_map_lookup_elem(&calls, &ip);
  if (count)
    __sync_fetch_and_add(count, 1);
  else
    bpf_map_update_elem(&calls, &ip, &one, BPF_NOEXIST);
  return 0;
}
