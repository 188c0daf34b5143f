/* Which arguments of the traced function each program reads. */
#include "../common.h"

__u64 sink;
volatile unsigned which;

static __noinline int third(void *ctx) {
  return ((__u64 *)ctx)[2];
}

SEC("fentry/six")
int none(void *ctx) {
  sink++;
  return 0;
}

SEC("fentry/six")
int second_and_fifth(__u64 *ctx) {
  sink = ctx[1] + ctx[4];
  return 0;
}

SEC("fentry/six")
int by_helper(void *ctx) {
  bpf_get_func_arg(ctx, 3, &sink);
  return 0;
}

SEC("fentry/six")
int by_subprogram(__u64 *ctx) {
  sink = ctx[0] + third(ctx);
  return 0;
}

SEC("fentry/six")
int by_variable_index(void *ctx) {
  bpf_get_func_arg(ctx, which, &sink);
  return 0;
}

SEC("fexit/add2")
int result_alone(__u64 *ctx) {
  bpf_get_func_ret(ctx, &sink);
  return 0;
}
