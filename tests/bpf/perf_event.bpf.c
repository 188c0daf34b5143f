/* A perf event array: records for the reader, by CPU. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, sizeof(__u32));
} events SEC(".maps");

struct event {
  int a;
  int b;
};
int failed;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  struct event event = {a, b};
  if (bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &event, sizeof(event))) failed++;
  return 0;
}
