/* A count, and nothing else that costs. */
#include "../common.h"

__u64 calls;

SEC("fentry/compute")
int BPF_PROG(on_compute) {
  __sync_fetch_and_add(&calls, 1);
  return 0;
}
