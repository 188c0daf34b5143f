/*
 * Eight functions of tests/targets/eight.c, by plain programs that check every argument and result, and by multi
 * programs that note what they are given at each function.
 */
#include "../common.h"

struct point {
  int x;
  long y;
};
struct node {
  long id;
  struct node *next;
  struct point at;
};

/* How often each plain program saw just what it should; `wrong` counts the other times. */
__u32 entry_right[8], exit_right[8], wrong;

static __always_inline void note(__u32 *right, bool is_right) {
  if (is_right) __sync_fetch_and_add(right, 1);
  else __sync_fetch_and_add(&wrong, 1);
}

#define ENTRY(n, params, right)                                                                                \
  SEC("fentry/eight_" #n) int BPF_PROG(entry_##n, PARAMS params) {                                             \
    note(&entry_right[n - 1], right);                                                                          \
    return 0;                                                                                                  \
  }
#define EXIT(n, params, right)                                                                                 \
  SEC("fexit/eight_" #n) int BPF_PROG(exit_##n, PARAMS params) {                                               \
    note(&exit_right[n - 1], right);                                                                           \
    return 0;                                                                                                  \
  }
#define PARAMS(...) __VA_ARGS__

ENTRY(1, (int a), a == 1)
ENTRY(2, (int a, __u64 b), a == -2 && b == 3)
ENTRY(3, (char a, int b, __u64 c), a == 4 && b == -5 && c == 6)
ENTRY(4, (void *a, char b, int c, __u64 d), a == (void *)7 && b == 8 && c == -9 && d == 10)
ENTRY(5, (__u64 a, void *b, short c, int d, __u64 e), a == 11 && b == (void *)12 && c == -13 && d == 14 && e == 15)
SEC("fentry/eight_6")
int BPF_PROG(entry_6, __u64 a, void *b, short c, int d, void *e, __u64 f) {
  note(&entry_right[5], a == 16 && b == (void *)17 && c == 18 && d == -19 && e == (void *)20 && f == 21);
  return 0;
}
ENTRY(7, (struct node * n), n->id == 100 && n->next->id == 200)
ENTRY(8, (struct node * n, int more), n->at.y == 60 && more == 22)

EXIT(1, (int a, int r), a == 1 && r == 2)
EXIT(2, (int a, __u64 b, int r), a == -2 && b == 3 && r == 1)
EXIT(3, (char a, int b, __u64 c, int r), a == 4 && b == -5 && c == 6 && r == 5)
EXIT(4, (void *a, char b, int c, __u64 d, __u64 r), a == (void *)7 && b == 8 && c == -9 && d == 10 && r == 16)
EXIT(5, (__u64 a, void *b, short c, int d, __u64 e, long r), a == 11 && c == -13 && d == 14 && e == 15 && r == 39)
SEC("fexit/eight_6")
int BPF_PROG(exit_6, __u64 a, void *b, short c, int d, void *e, __u64 f, long r) {
  note(&exit_right[5], a == 16 && b == (void *)17 && c == 18 && d == -19 && f == 21 && r == 73);
  return 0;
}
EXIT(7, (struct node * n, long r), n->id == 100 && r == 300)
EXIT(8, (struct node * n, int more, int r), n->at.x == 5 && more == 22 && r == 82)

/* What a multi program was given: by the function's address. */
struct seen {
  __u64 calls, cookie, args[6], result;
};
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 256);
  __type(key, __u64);
  __type(value, struct seen);
} at_entry SEC(".maps"), at_exit SEC(".maps");

static __always_inline void remember(void *ctx, void *map, bool returned) {
  __u64 ip = bpf_get_func_ip(ctx);
  struct seen none = {}, *seen = bpf_map_lookup_elem(map, &ip);
  if (!seen) {
    bpf_map_update_elem(map, &ip, &none, BPF_NOEXIST);
    seen = bpf_map_lookup_elem(map, &ip);
    if (!seen) return;
  }
  __sync_fetch_and_add(&seen->calls, 1);
  seen->cookie = bpf_get_attach_cookie(ctx);
  __u64 count = bpf_get_func_arg_cnt(ctx);
  for (int i = 0; i < 6; i++)
    if (i < count) bpf_get_func_arg(ctx, i, &seen->args[i]);
  if (returned) bpf_get_func_ret(ctx, &seen->result);
}

SEC("fentry.multi")
int BPF_PROG(any_entry) {
  __u64 ip = bpf_get_func_ip(ctx);
  struct seen none = {}, *seen = bpf_map_lookup_elem(&at_entry, &ip);
  if (!seen) {
    bpf_map_update_elem(&at_entry, &ip, &none, BPF_NOEXIST);
    seen = bpf_map_lookup_elem(&at_entry, &ip);
    if (!seen) return 0;
  }
  __sync_fetch_and_add(&seen->calls, 1);
  seen->cookie = bpf_get_attach_cookie(ctx);
  return 0;
}

SEC("fentry.multi/eight_6")
int BPF_PROG(six_at_entry) {
  remember(ctx, &at_entry, false);
  return 0;
}

SEC("fexit.multi/eight_6")
int BPF_PROG(six_at_exit) {
  remember(ctx, &at_exit, true);
  return 0;
}

/* Takes its first argument by the type of the first function. */
__u64 first_calls;
long first_sum;

SEC("fentry.multi/eight_1")
int BPF_PROG(takes_int, int a) {
  __sync_fetch_and_add(&first_calls, 1);
  __sync_fetch_and_add(&first_sum, a);
  return 0;
}

SEC("fentry.multi/eight_7")
int BPF_PROG(takes_node, struct node *n) {
  __sync_fetch_and_add(&first_calls, 1);
  __sync_fetch_and_add(&first_sum, n->id);
  return 0;
}

SEC("fexit.multi/eight_1")
int BPF_PROG(takes_result, int a, int r) {
  __sync_fetch_and_add(&first_calls, 1);
  __sync_fetch_and_add(&first_sum, r);
  return 0;
}

SEC("fmod_ret.multi/eight_1")
int BPF_PROG(gives_result, int a) {
  __sync_fetch_and_add(&first_calls, 1);
  return 0;
}
