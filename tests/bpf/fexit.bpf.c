/* Results at the return, with the arguments of the call. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 64);
  __type(key, int);
  __type(value, int);
} results SEC(".maps");

long calls, total;

SEC("fexit/negative")
int on_negative(__u64 *ctx) {
  __u64 value = 0;
  int n = (int)ctx[0], result;
  bpf_get_func_ret(ctx, &value);
  result = (int)value;
  bpf_map_update_elem(&results, &n, &result, BPF_ANY);
  __sync_fetch_and_add(&calls, 1);
  __sync_fetch_and_add(&total, result);
  return 0;
}
