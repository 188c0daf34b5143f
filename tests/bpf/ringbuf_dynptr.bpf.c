/* Records of a size that is known when the program runs: written, read back, sent or thrown away. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} events SEC(".maps");

int sent, thrown, read_back, too_large, outside, sliced;

SEC("fentry/negative")
int BPF_PROG(on_negative, int n) {
  struct bpf_dynptr record;
  __u64 word = 0x0101010101010101ull * (__u32)n, again = 0;
  __u32 size = 8 + 8 * (n & 7), *slice;
  if (bpf_ringbuf_reserve_dynptr(&events, size, 0, &record) == 0) {
    bpf_dynptr_write(&record, size - 8, &word, sizeof(word), 0);
    if (bpf_dynptr_read(&again, sizeof(again), &record, size - 8, 0) == 0 && again == word) read_back++;
    if (bpf_dynptr_write(&record, size - 7, &word, sizeof(word), 0) == -E2BIG) outside++;
    slice = bpf_dynptr_data(&record, 0, 4);
    if (slice && size > 8) {
      *slice = n;
      sliced++;
    }
  }
  if (n & 1) {
    bpf_ringbuf_discard_dynptr(&record, 0);
    thrown++;
  } else {
    bpf_ringbuf_submit_dynptr(&record, 0);
    sent++;
  }
  struct bpf_dynptr large;
  if (bpf_ringbuf_reserve_dynptr(&events, 5000, 0, &large)) too_large++;
  bpf_ringbuf_discard_dynptr(&large, 0);
  return 0;
}
