/*
 * Counts calls of many functions, each in the row that its cookie names, while the gate is open; and whether that row is
 * the function's. Only one thread counts, so that it is known how often it calls what.
 */
#include "test_run.h"

extern bool bpf_session_is_return(void *ctx) __ksym;
extern __u64 *bpf_session_cookie(void *ctx) __ksym;

/* Cookies are of more than 32 bits: the row in the low ones. */
#define COOKIE 0x5a5a000000000000ull

struct row {
  __u64 ip, entries, returns;
  __s64 results;
};
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 65536);
  __type(key, __u32);
  __type(value, struct row);
} rows SEC(".maps");

struct gate {
  __u32 thread, open;
  /* Calls with a cookie of no row, of another function's row, or with a session that was mixed up. */
  __u64 lost, mistaken, mixed;
} gate;

static __always_inline bool is_open(void) { return gate.open && (__u32)bpf_get_current_pid_tgid() == gate.thread; }

static __always_inline struct row *row_of(void *ctx) {
  __u64 cookie = bpf_get_attach_cookie(ctx);
  __u32 slot = cookie - COOKIE;
  struct row *row = cookie >= COOKIE ? bpf_map_lookup_elem(&rows, &slot) : 0;
  if (!row) gate.lost++;
  else if (row->ip != bpf_get_func_ip(ctx)) gate.mistaken++;
  return row;
}

static __always_inline void add_result(void *ctx, struct row *row) {
  __u64 result = 0;
  if (bpf_get_func_ret(ctx, &result) == 0) __sync_fetch_and_add(&row->results, (int)result);
}

SEC("?fentry.multi")
int at_entry(void *ctx) {
  if (!is_open()) return 0;
  struct row *row = row_of(ctx);
  if (row) __sync_fetch_and_add(&row->entries, 1);
  return 0;
}

SEC("?fexit.multi")
int at_exit(void *ctx) {
  if (!is_open()) return 0;
  struct row *row = row_of(ctx);
  if (!row) return 0;
  __sync_fetch_and_add(&row->returns, 1);
  add_result(ctx, row);
  return 0;
}

SEC("?fsession.multi")
int at_both(void *ctx) {
  __u64 *left = bpf_session_cookie(ctx);
  if (!bpf_session_is_return(ctx)) {
    *left = 0;
    if (!is_open()) return 0;
    struct row *row = row_of(ctx);
    if (!row) return 0;
    __sync_fetch_and_add(&row->entries, 1);
    *left = row->ip;
    return 0;
  }
  if (*left == 0) return 0;
  struct row *row = row_of(ctx);
  if (!row) return 0;
  if (*left != row->ip) gate.mixed++;
  __sync_fetch_and_add(&row->returns, 1);
  add_result(ctx, row);
  return 0;
}
