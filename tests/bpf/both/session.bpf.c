/* A program at entry and return, plain and on many functions: what entry leaves is there at return. */
#include "test_run.h"

extern bool bpf_session_is_return(void *ctx) __ksym;
extern __u64 *bpf_session_cookie(void *ctx) __ksym;

struct seen {
  __u64 entries, returns, cookie, count, first, wrong;
  __s64 result;
};
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 64);
  __type(key, __u64);
  __type(value, struct seen);
} seen SEC(".maps");

static __always_inline int session(void *ctx) {
  __u64 *left = bpf_session_cookie(ctx);
  __u64 ip = bpf_get_func_ip(ctx);
  struct seen fresh = {}, *s = bpf_map_lookup_elem(&seen, &ip);
  if (!s) {
    bpf_map_update_elem(&seen, &ip, &fresh, BPF_NOEXIST);
    s = bpf_map_lookup_elem(&seen, &ip);
    if (!s) return 0;
  }
  if (!bpf_session_is_return(ctx)) {
    __sync_fetch_and_add(&s->entries, 1);
    s->cookie = bpf_get_attach_cookie(ctx);
    *left = ip ^ s->entries;
    return 0;
  }
  __sync_fetch_and_add(&s->returns, 1);
  if (*left != (ip ^ s->entries) || bpf_get_attach_cookie(ctx) != s->cookie) s->wrong++;
  s->count = bpf_get_func_arg_cnt(ctx);
  bpf_get_func_arg(ctx, 0, &s->first);
  __u64 result = 0;
  bpf_get_func_ret(ctx, &result);
  s->result = (int)result;
  return 0;
}

SEC("?fsession/bpf_fentry_test2")
int plain(void *ctx) {
  return session(ctx);
}

SEC("?fsession.multi/bpf_fentry_test1")
int many(void *ctx) {
  return session(ctx);
}
