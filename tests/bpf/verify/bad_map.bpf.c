/* A map that can not be: no program of the object can be loaded. */
#include "../common.h"

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1000);
} events SEC(".maps");

SEC("fentry/add2")
int on_add2(void *ctx) {
  return 0;
}

SEC("fentry/six")
int on_six(void *ctx) {
  int *record = bpf_ringbuf_reserve(&events, 4, 0);
  if (record) bpf_ringbuf_discard(record, 0);
  return 0;
}
