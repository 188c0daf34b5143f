/* Dynamic pointers: into map memory and into a ring buffer, with bounds that are checked when they are used. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64[8]);
} memory SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} events SEC(".maps");

__u64 read_back, through_data;
long wrote, outside, reserved;

SEC("fentry/six")
int BPF_PROG(on_six, long a, long b, long c) {
  __u32 zero = 0;
  __u64 value = 0x1122334455667788, *word;
  struct bpf_dynptr pointer;
  void *place = bpf_map_lookup_elem(&memory, &zero);
  if (!place) return 0;
  if (bpf_dynptr_from_mem(place, 64, 0, &pointer)) return 0;
  wrote = bpf_dynptr_write(&pointer, 8 * b, &value, sizeof(value), 0);
  bpf_dynptr_read(&read_back, sizeof(read_back), &pointer, 16, 0);
  outside = bpf_dynptr_write(&pointer, 60, &value, sizeof(value), 0);
  word = bpf_dynptr_data(&pointer, 16, 8);
  if (word) through_data = *word;

  struct bpf_dynptr record;
  reserved = bpf_ringbuf_reserve_dynptr(&events, 8 * c, 0, &record);
  if (reserved == 0) bpf_dynptr_write(&record, 16, &value, sizeof(value), 0);
  bpf_ringbuf_submit_dynptr(&record, 0);
  return 0;
}
