/* An LRU hash: more keys than it has room for, and no update fails. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 16);
  __type(key, int);
  __type(value, int);
} recent SEC(".maps");

int inserted, failed;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  if (bpf_map_update_elem(&recent, &a, &b, BPF_ANY))
    failed++;
  else
    inserted++;
  return 0;
}
