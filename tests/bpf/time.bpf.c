/* Clocks: none goes back, all go on. */
#include "common.h"

__u64 first, last, boot, tai, coarse, jiffies, backwards, calls;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  __u64 now = bpf_ktime_get_ns();
  if (!first) first = now;
  if (now < last) backwards++;
  last = now;
  boot = bpf_ktime_get_boot_ns();
  coarse = bpf_ktime_get_coarse_ns();
  tai = bpf_ktime_get_tai_ns();
  jiffies = bpf_jiffies64();
  calls++;
  return 0;
}
