/* A timer needs a thread of ours in the process. */
#include "../common.h"

struct value {
  struct bpf_timer timer;
};
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct value);
} timers SEC(".maps");

SEC("fentry/six")
int BPF_PROG(on_six) {
  __u32 zero = 0;
  struct value *value = bpf_map_lookup_elem(&timers, &zero);
  if (value) bpf_timer_init(&value->timer, &timers, 1);
  return 0;
}
