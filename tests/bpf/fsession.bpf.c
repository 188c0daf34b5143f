/* One program at entry and return, with eight bytes that go from one to the other. */
#include "common.h"

extern bool bpf_session_is_return(void *ctx) __ksym;
extern __u64 *bpf_session_cookie(void *ctx) __ksym;

__u64 entries, returns, wrong, shortest = ~0ull;

SEC("fsession.multi/caller_*")
int on_call(__u64 *ctx) {
  __u64 *cookie = bpf_session_cookie(ctx);
  if (!bpf_session_is_return(ctx)) {
    *cookie = bpf_ktime_get_ns();
    __sync_fetch_and_add(&entries, 1);
    return 0;
  }
  __u64 took = bpf_ktime_get_ns() - *cookie;
  if (took > 1000000000ull) __sync_fetch_and_add(&wrong, 1);
  if (took < shortest) shortest = took;
  __sync_fetch_and_add(&returns, 1);
  return 0;
}
