/* Two sessions on the same functions, one of which calls the other: each call of each has eight bytes of its own. */
#include "common.h"

extern bool bpf_session_is_return(void *ctx) __ksym;
extern __u64 *bpf_session_cookie(void *ctx) __ksym;

__u64 first_entries, first_returns, second_entries, second_returns, wrong, results;

static __always_inline __u64 mark(void *ctx, __u64 program) {
  return bpf_get_func_ip(ctx) * 4 + program;
}

SEC("fsession.multi/caller_*,leaf")
int first(__u64 *ctx) {
  __u64 *cookie = bpf_session_cookie(ctx), value = 0;
  if (!bpf_session_is_return(ctx)) {
    *cookie = mark(ctx, 1) + ((__u64)(int)ctx[0] << 48);
    __sync_fetch_and_add(&first_entries, 1);
    return 0;
  }
  if (*cookie != mark(ctx, 1) + ((__u64)(int)ctx[0] << 48)) __sync_fetch_and_add(&wrong, 1);
  if (bpf_get_func_ret(ctx, &value) == 0) __sync_fetch_and_add(&results, (int)value);
  __sync_fetch_and_add(&first_returns, 1);
  return 0;
}

SEC("fsession.multi/caller_*,leaf")
int second(__u64 *ctx) {
  __u64 *cookie = bpf_session_cookie(ctx);
  if (!bpf_session_is_return(ctx)) {
    *cookie = mark(ctx, 2);
    __sync_fetch_and_add(&second_entries, 1);
    return 0;
  }
  if (*cookie != mark(ctx, 2)) __sync_fetch_and_add(&wrong, 1);
  __sync_fetch_and_add(&second_returns, 1);
  return 0;
}
