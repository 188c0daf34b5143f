/* Refused: a record is written after it was submitted. */
#include "../common.h"

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} events SEC(".maps");

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  int *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
  if (!record) return 0;
  bpf_ringbuf_submit(record, 0);
  *record = a; /* HERE */
  return 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2_before, int a, int b) {
  int *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
  if (!record) return 0;
  *record = a;
  bpf_ringbuf_submit(record, 0);
  return 0;
}
