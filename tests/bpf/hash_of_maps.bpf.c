/* A hash of maps, filled in the file. */
#include "common.h"

struct counts {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16);
  __type(key, int);
  __type(value, int);
} first SEC(".maps"), second SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
  __uint(max_entries, 4);
  __type(key, __u32);
  __array(values, struct counts);
} both SEC(".maps") = {.values = {[0] = &first, [1] = &second}};

int absent;

SEC("fentry/negative")
int BPF_PROG(on_negative, int n) {
  __u32 which = (__u32)n % 3;
  void *map = bpf_map_lookup_elem(&both, &which);
  if (map)
    bpf_map_update_elem(map, &n, &n, BPF_ANY);
  else
    absent++;
  return 0;
}
