/* A hash: insert, replace, delete, and the results that the flags give. */
#include "common.h"

struct pair {
  int a;
  int b;
};
struct seen {
  __u64 count;
  struct pair last;
};
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 128);
  __type(key, struct pair);
  __type(value, struct seen);
} hits SEC(".maps");

int noexist, exist, deleted, again;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  struct pair key = {.a = (__u32)a % 10, .b = 7};
  struct seen *seen = bpf_map_lookup_elem(&hits, &key);
  if (seen) {
    __sync_fetch_and_add(&seen->count, 1);
    seen->last.a = a;
    seen->last.b = b;
  } else {
    struct seen fresh = {.count = 1, .last = {a, b}};
    bpf_map_update_elem(&hits, &key, &fresh, BPF_NOEXIST);
  }
  return 0;
}

SEC("fentry/six")
int BPF_PROG(on_six) {
  struct pair key = {.a = 0, .b = 7};
  struct seen value = {.count = 5};
  noexist = bpf_map_update_elem(&hits, &key, &value, BPF_NOEXIST);
  key.b = 8;
  exist = bpf_map_update_elem(&hits, &key, &value, BPF_EXIST);
  key.a = 9;
  key.b = 7;
  deleted = bpf_map_delete_elem(&hits, &key);
  again = bpf_map_delete_elem(&hits, &key);
  return 0;
}
