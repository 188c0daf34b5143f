/* An LPM trie: the longest prefix that matches wins. */
#include "common.h"

struct key {
  __u32 prefixlen;
  __u8 data[4];
};
struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(max_entries, 16);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, struct key);
  __type(value, int);
} routes SEC(".maps");

int short_match, long_match, none;

SEC("fentry/six")
int BPF_PROG(on_six) {
  struct key key = {.prefixlen = 8, .data = {10}};
  int value = 8;
  bpf_map_update_elem(&routes, &key, &value, BPF_ANY);
  key.prefixlen = 24;
  key.data[1] = 1;
  key.data[2] = 2;
  value = 24;
  bpf_map_update_elem(&routes, &key, &value, BPF_ANY);
  struct key look = {.prefixlen = 32, .data = {10, 9, 9, 9}};
  int *found = bpf_map_lookup_elem(&routes, &look);
  if (found) short_match = *found;
  look.data[1] = 1;
  look.data[2] = 2;
  found = bpf_map_lookup_elem(&routes, &look);
  if (found) long_match = *found;
  look.data[0] = 11;
  if (!bpf_map_lookup_elem(&routes, &look)) none = 1;
  return 0;
}
