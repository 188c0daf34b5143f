/* Calls of SSL_read that take longer than a limit, as they happen; and how long all of them took, by powers of two. */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern bool bpf_session_is_return(void *ctx) __ksym;
extern __u64 *bpf_session_cookie(void *ctx) __ksym;

struct slow_read {
  __u64 microseconds;
  __s32 result; /* bytes, or -1 */
  __u32 thread;
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 256 * 1024);
  __type(value, struct slow_read);
} slow_reads SEC(".maps");

/* Calls by the number of bits of their microseconds. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 32);
  __type(key, __u32);
  __type(value, __u64);
} calls_by_bits SEC(".maps");

/* multitrace run … --set limit_us=50000 */
const volatile __u64 limit_us = 1000;

SEC("fsession.multi/libssl:SSL_read,libssl:SSL_read_ex")
int on_read(__u64 *ctx) {
  __u64 *begin = bpf_session_cookie(ctx);
  if (!bpf_session_is_return(ctx)) {
    *begin = bpf_ktime_get_ns();
    return 0;
  }
  __u64 us = (bpf_ktime_get_ns() - *begin) / 1000;

  __u32 bits = 0;
  for (__u64 rest = us; rest && bits < 31; rest >>= 1) bits++;
  __u64 *calls = bpf_map_lookup_elem(&calls_by_bits, &bits);
  if (calls) __sync_fetch_and_add(calls, 1);

  if (us < limit_us) return 0;
  struct slow_read *slow = bpf_ringbuf_reserve(&slow_reads, sizeof(*slow), 0);
  if (!slow) return 0;
  __u64 result = 0;
  bpf_get_func_ret(ctx, &result);
  slow->microseconds = us;
  slow->result = result;
  slow->thread = bpf_get_current_pid_tgid();
  bpf_ringbuf_submit(slow, 0);
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
