/* A ring buffer that gets nothing. */
#include "../common.h"

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} events SEC(".maps");

int calls;

SEC("fentry/never")
int BPF_PROG(on_never) {
  calls++;
  __u64 word = 1;
  bpf_ringbuf_output(&events, &word, sizeof(word), 0);
  return 0;
}
