/* A queue and a stack: order, fullness, and the flag that pushes the oldest out. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_QUEUE);
  __uint(max_entries, 8);
  __type(value, int);
} queue SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_STACK);
  __uint(max_entries, 8);
  __type(value, int);
} stack SEC(".maps");

int full, first, popped, top, empty;

SEC("fentry/negative")
int BPF_PROG(on_negative, int n) {
  if (bpf_map_push_elem(&queue, &n, BPF_ANY) == -E2BIG) full++;
  bpf_map_push_elem(&stack, &n, BPF_EXIST);
  return 0;
}

SEC("fentry/caller_one")
int BPF_PROG(on_caller, int n) {
  if (n != 0) return 0;
  bpf_map_peek_elem(&queue, &first);
  bpf_map_pop_elem(&queue, &popped);
  bpf_map_pop_elem(&stack, &top);
  return 0;
}
