/* Going through maps: array, hash, and an early end. */
#include "common.h"

struct bpf_map;

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 8);
  __type(key, __u32);
  __type(value, __u64);
} numbers SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 128);
  __type(key, int);
  __type(value, int);
} seen SEC(".maps");

struct context {
  long sum;
  long keys;
  int left;
};
long array_sum, array_count, hash_keys, hash_sum, hash_count, ended;

static long add_number(struct bpf_map *map, __u32 *key, __u64 *value, struct context *context) {
  context->sum += *value;
  context->keys += *key;
  *value += 1;
  return 0;
}

static long add_seen(struct bpf_map *map, int *key, int *value, struct context *context) {
  context->sum += *value;
  context->keys += *key;
  return --context->left == 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  __u32 index = (__u32)a % 8;
  __u64 *number = bpf_map_lookup_elem(&numbers, &index);
  if (number) *number = a;
  bpf_map_update_elem(&seen, &a, &b, BPF_ANY);
  return 0;
}

SEC("fentry/six")
int BPF_PROG(on_six) {
  struct context context = {.left = -1};
  array_count = bpf_for_each_map_elem(&numbers, add_number, &context, 0);
  array_sum = context.sum;
  context.sum = context.keys = 0;
  hash_count = bpf_for_each_map_elem(&seen, add_seen, &context, 0);
  hash_sum = context.sum;
  hash_keys = context.keys;
  context.left = 5;
  ended = bpf_for_each_map_elem(&seen, add_seen, &context, 0);
  return 0;
}
