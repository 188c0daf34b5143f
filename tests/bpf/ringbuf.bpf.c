/* A ring buffer: records that are reserved and submitted or discarded, and copied in one piece. */
#include "common.h"

struct event {
  int kind;
  int a;
  long sum;
  char text[8];
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 65536);
  __type(value, struct event);
} events SEC(".maps");

long size, full;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
  if (!event) {
    full++;
    return 0;
  }
  event->kind = 1;
  event->a = a;
  event->sum = a + b;
  __builtin_memcpy(event->text, "add2", 5);
  event->text[5] = event->text[6] = event->text[7] = 0;
  if (a % 2)
    bpf_ringbuf_discard(event, 0);
  else
    bpf_ringbuf_submit(event, 0);
  return 0;
}

SEC("fentry/negative")
int BPF_PROG(on_negative, int n) {
  struct event event = {.kind = 2, .a = n, .sum = -n, .text = "neg"};
  bpf_ringbuf_output(&events, &event, sizeof(event), 0);
  size = bpf_ringbuf_query(&events, BPF_RB_RING_SIZE);
  return 0;
}
