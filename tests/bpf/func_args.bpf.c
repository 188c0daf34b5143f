/* Arguments and results by helper: their count, one by index, the function's address. */
#include "common.h"

__u64 args[6], count, ip, ip_in_exit, result, cookie = 99;
__u64 no_result;
long beyond;

SEC("fentry/six")
int on_six(void *ctx) {
  count = bpf_get_func_arg_cnt(ctx);
  bpf_get_func_arg(ctx, 0, &args[0]);
  bpf_get_func_arg(ctx, 1, &args[1]);
  bpf_get_func_arg(ctx, 2, &args[2]);
  bpf_get_func_arg(ctx, 3, &args[3]);
  bpf_get_func_arg(ctx, 4, &args[4]);
  bpf_get_func_arg(ctx, 5, &args[5]);
  beyond = bpf_get_func_arg(ctx, 100, &no_result);
  ip = bpf_get_func_ip(ctx);
  cookie = bpf_get_attach_cookie(ctx);
  return 0;
}

SEC("fexit/six")
int on_six_exit(void *ctx) {
  ip_in_exit = bpf_get_func_ip(ctx);
  bpf_get_func_ret(ctx, &result);
  return 0;
}
