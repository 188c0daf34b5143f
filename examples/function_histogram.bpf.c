/*
 * How long functions take: a histogram by powers of two over all of them, and calls and time of each. Which ones:
 * multitrace run function_histogram.bpf.o --target 'on_call=libcrypto:EVP_*' -- …
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern bool bpf_session_is_return(void *ctx) __ksym;
extern __u64 *bpf_session_cookie(void *ctx) __ksym;

struct times {
  __u64 calls;
  __u64 nanoseconds;
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 65536);
  __type(key, void *);
  __type(value, struct times);
} functions SEC(".maps");

/* Calls by the number of bits of their nanoseconds. */
__u64 histogram[48];

SEC("fsession.multi/libcrypto:EVP_Digest*")
int on_call(__u64 *ctx) {
  __u64 *begin = bpf_session_cookie(ctx);
  if (!bpf_session_is_return(ctx)) {
    *begin = bpf_ktime_get_ns();
    return 0;
  }
  __u64 took = bpf_ktime_get_ns() - *begin;
  __u32 bits = 0;
  for (__u64 rest = took; rest && bits < 47; rest >>= 1) bits++;
  __sync_fetch_and_add(&histogram[bits], 1);

  void *ip = (void *)bpf_get_func_ip(ctx);
  struct times *times = bpf_map_lookup_elem(&functions, &ip);
  if (!times) {
    struct times none = {};
    bpf_map_update_elem(&functions, &ip, &none, BPF_NOEXIST);
    times = bpf_map_lookup_elem(&functions, &ip);
    if (!times) return 0;
  }
  __sync_fetch_and_add(&times->calls, 1);
  __sync_fetch_and_add(&times->nanoseconds, took);
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
