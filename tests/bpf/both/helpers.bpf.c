/* Arguments, results, address and cookie by helpers, in plain programs. */
#include "test_run.h"

struct seen {
  __u64 calls, ip, cookie, count, args[6];
  __s64 beyond, no_result, got_result;
  __u64 result;
};
struct seen at_entry, at_exit, none;

static __always_inline void look(void *ctx, struct seen *seen) {
  seen->calls++;
  seen->ip = bpf_get_func_ip(ctx);
  seen->cookie = bpf_get_attach_cookie(ctx);
  seen->count = bpf_get_func_arg_cnt(ctx);
  for (int i = 0; i < 6; i++) bpf_get_func_arg(ctx, i, &seen->args[i]);
  __u64 dropped = 5;
  seen->beyond = bpf_get_func_arg(ctx, 6, &dropped);
}

SEC("fentry/bpf_fentry_test6")
int on_entry(void *ctx) {
  look(ctx, &at_entry);
  return 0;
}

SEC("fexit/bpf_fentry_test6")
int on_exit(void *ctx) {
  look(ctx, &at_exit);
  at_exit.got_result = bpf_get_func_ret(ctx, &at_exit.result);
  return 0;
}

/* Fewer arguments than the helper is asked for. */
SEC("fentry/bpf_fentry_test2")
int on_fewer(void *ctx) {
  look(ctx, &none);
  return 0;
}
