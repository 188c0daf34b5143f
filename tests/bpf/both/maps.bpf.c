/* Maps, tail calls, loops, locks: each of ten calls of ten functions does a little of everything. */
#include "test_run.h"

const volatile int rounds = 5;
__u64 calls = 100, looped, inner_hits;
int negative = -3;
char text[16];

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, __u64);
} percpu SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
  __uint(max_entries, 16);
  __type(key, __u32);
  __type(value, __u64);
} percpu_hash SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u64);
} lru SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_QUEUE);
  __uint(max_entries, 4);
  __type(value, __u32);
} queue SEC(".maps");
struct event {
  __u32 number;
  char word[4];
  __u64 sum;
};
struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
  __type(value, struct event);
} events SEC(".maps");
struct inner {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u64);
} first_inner SEC(".maps"), second_inner SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 3);
  __type(key, __u32);
  __array(values, struct inner);
} outer SEC(".maps") = {.values = {[0] = &first_inner, [2] = &second_inner}};
struct locked {
  struct bpf_spin_lock lock;
  int a, b;
};
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct locked);
} guarded SEC(".maps");

static long once_more(__u32 i, void *sum) {
  *(__u64 *)sum += i;
  return 0;
}

static __always_inline void add_to_inner(__u32 index) {
  __u32 zero = 0;
  void *inner = bpf_map_lookup_elem(&outer, &index);
  __u64 *value = inner ? bpf_map_lookup_elem(inner, &zero) : 0;
  if (!value) return;
  *value += index + 1;
  inner_hits++;
}

SEC("fentry/bpf_fentry_test3")
int BPF_PROG(on_third, char a, int b, __u64 c) {
  __u32 zero = 0, one = 1, key = a, calls_now = ++calls;
  __u64 fresh = b, *value = bpf_map_lookup_elem(&percpu, &one), sum = 0;
  if (value) *value += c;
  value = bpf_map_lookup_elem(&percpu_hash, &key);
  if (value) *value += 1;
  else bpf_map_update_elem(&percpu_hash, &key, &fresh, BPF_NOEXIST);
  bpf_map_update_elem(&lru, &calls_now, &fresh, BPF_ANY);
  bpf_map_push_elem(&queue, &calls_now, BPF_EXIST);

  bpf_loop(rounds, once_more, &sum, 0);
  looped += sum;

  struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
  if (event) {
    event->number = calls_now;
    __builtin_memcpy(event->word, "abc", 4);
    event->sum = sum;
    bpf_ringbuf_submit(event, 0);
  }
  add_to_inner(0);
  add_to_inner(1);
  add_to_inner(2);
  struct locked *locked = bpf_map_lookup_elem(&guarded, &zero);
  if (locked) {
    bpf_spin_lock(&locked->lock);
    locked->a += 1;
    locked->b -= locked->a;
    bpf_spin_unlock(&locked->lock);
  }
  __u64 words[] = {calls_now, (__u64)(long)negative};
  bpf_snprintf(text, sizeof(text), "%u/%d", words, sizeof(words));
  return 0;
}
