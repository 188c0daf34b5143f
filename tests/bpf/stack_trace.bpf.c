/* Stacks by id: who called leaf, how often. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_STACK_TRACE);
  __uint(max_entries, 64);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, 16 * sizeof(__u64));
} stacks SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 64);
  __type(key, __s32);
  __type(value, __u64);
} counts SEC(".maps");

int failed;

SEC("fentry/leaf")
int BPF_PROG(on_leaf, int n) {
  __s32 id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
  __u64 one = 1, *count;
  if (id < 0) {
    failed++;
    return 0;
  }
  count = bpf_map_lookup_elem(&counts, &id);
  if (count)
    __sync_fetch_and_add(count, 1);
  else
    bpf_map_update_elem(&counts, &id, &one, BPF_NOEXIST);
  return 0;
}
