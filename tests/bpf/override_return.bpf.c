/* A modify-return program that says the result by helper; zero would let the function run, and is refused. */
#include "common.h"

/* Its type is for probes; any context will do. */
#define override_return(value) bpf_override_return((struct pt_regs *)ctx, value)

#define EINVAL 22

int asked, zero_refused, seen_by_exit;

SEC("fmod_ret/maybe")
int BPF_PROG(on_maybe, int n) {
  asked++;
  if (n == 0 && override_return(0) == -EINVAL) zero_refused++;
  if (n == 1) override_return(41);
  if (n == 3) {
    override_return(10);
    override_return(50);
  }
  return 0;
}

SEC("fexit/maybe")
int BPF_PROG(after_maybe, int n, int result) {
  seen_by_exit = seen_by_exit * 100 + result;
  return 0;
}
