/* All at once on a busy process: loads that fault, records, and returns. */
#include "../common.h"

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} events SEC(".maps");

struct event {
  __u64 n, result;
};

__u64 calls, good, bad, returns, wrong, sent;
struct event unused;

SEC("fentry/touch")
int BPF_PROG(on_touch, const char *pointer) {
  char bytes[8] = {};
  __sync_fetch_and_add(&calls, 1);
  if (bpf_probe_read_user(bytes, sizeof(bytes), pointer))
    __sync_fetch_and_add(&bad, 1);
  else
    __sync_fetch_and_add(&good, 1);
  return 0;
}

SEC("fexit/compute")
int after_compute(__u64 *ctx) {
  __u64 result = 0;
  struct event *event;
  bpf_get_func_ret(ctx, &result);
  __sync_fetch_and_add(&returns, 1);
  if (result != 3 * ctx[0] + 1) __sync_fetch_and_add(&wrong, 1);
  event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
  if (!event) return 0;
  event->n = ctx[0];
  event->result = result;
  bpf_ringbuf_submit(event, 0);
  __sync_fetch_and_add(&sent, 1);
  return 0;
}
