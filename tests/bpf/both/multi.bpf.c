/* One program on many functions, by one link: what it is given at each, by the function's address. */
#include "test_run.h"

struct seen {
  __u64 calls, cookie, count, args[6], result;
};
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 64);
  __type(key, __u64);
  __type(value, struct seen);
} at_entry SEC(".maps"), at_exit SEC(".maps");

static __always_inline struct seen *of(void *ctx, void *map) {
  __u64 ip = bpf_get_func_ip(ctx);
  struct seen fresh = {}, *seen = bpf_map_lookup_elem(map, &ip);
  if (!seen) {
    bpf_map_update_elem(map, &ip, &fresh, BPF_NOEXIST);
    seen = bpf_map_lookup_elem(map, &ip);
    if (!seen) return 0;
  }
  __sync_fetch_and_add(&seen->calls, 1);
  seen->cookie = bpf_get_attach_cookie(ctx);
  return seen;
}

SEC("?fentry.multi")
int count(void *ctx) {
  of(ctx, &at_entry);
  return 0;
}

/* Counts the same calls as another number, to be told apart after an update. */
SEC("?fentry.multi")
int count_thousands(void *ctx) {
  struct seen *seen = of(ctx, &at_entry);
  if (seen) __sync_fetch_and_add(&seen->calls, 999);
  return 0;
}

SEC("?fentry.multi")
int look_at_entry(void *ctx) {
  struct seen *seen = of(ctx, &at_entry);
  if (!seen) return 0;
  seen->count = bpf_get_func_arg_cnt(ctx);
  for (int i = 0; i < 6; i++) bpf_get_func_arg(ctx, i, &seen->args[i]);
  return 0;
}

SEC("?fexit.multi")
int look_at_exit(void *ctx) {
  struct seen *seen = of(ctx, &at_exit);
  if (!seen) return 0;
  seen->count = bpf_get_func_arg_cnt(ctx);
  bpf_get_func_arg(ctx, 0, &seen->args[0]);
  bpf_get_func_ret(ctx, &seen->result);
  return 0;
}

/* By the types of the first function. */
__u64 first_calls;
long first_sum;

SEC("?fentry.multi/bpf_fentry_test1")
int BPF_PROG(takes_int, int a) {
  first_calls++;
  first_sum += a;
  return 0;
}

SEC("?fentry.multi/bpf_fentry_test2")
int BPF_PROG(takes_both, int a, __u64 b) {
  first_calls++;
  first_sum += a + b;
  return 0;
}

SEC("?fexit.multi/bpf_fentry_test1")
int BPF_PROG(takes_result, int a, int r) {
  first_calls++;
  first_sum += r;
  return 0;
}

SEC("?fentry.multi/bpf_fentry_test8")
int BPF_PROG(takes_struct, struct bpf_fentry_test_t *a) {
  first_calls++;
  first_sum += a->a == 0;
  return 0;
}
