/* A lock in a map's value: two numbers that change together, from four threads. */
#include "common.h"

struct both {
  struct bpf_spin_lock lock;
  int unused;
  __u64 one;
  __u64 two;
};
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct both);
} locked SEC(".maps");

__u64 torn;

SEC("fentry/tick")
int BPF_PROG(on_tick, long thread, long i) {
  __u32 zero = 0;
  struct both *both = bpf_map_lookup_elem(&locked, &zero);
  bool differ;
  if (!both) return 0;
  bpf_spin_lock(&both->lock);
  differ = both->one != both->two;
  both->one += 1;
  both->two += 1;
  bpf_spin_unlock(&both->lock);
  if (differ) __sync_fetch_and_add(&torn, 1);
  return 0;
}
