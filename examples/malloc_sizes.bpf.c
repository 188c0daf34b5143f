/* Who asks malloc for how much: calls, bytes and the largest piece, by the address that malloc returns to. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct sizes {
  __u64 calls;
  __u64 bytes;
  __u64 largest;
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 10240);
  __type(key, void *);
  __type(value, struct sizes);
} callers SEC(".maps");

/* Sizes by powers of two: the index is the number of bits. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 48);
  __type(key, __u32);
  __type(value, __u64);
} by_bits SEC(".maps");

static __u32 bits_of(__u64 value) {
  __u32 bits = 0;
  if (value >> 32) { bits += 32; value >>= 32; }
  if (value >> 16) { bits += 16; value >>= 16; }
  if (value >> 8) { bits += 8; value >>= 8; }
  if (value >> 4) { bits += 4; value >>= 4; }
  if (value >> 2) { bits += 2; value >>= 2; }
  if (value >> 1) { bits += 1; value >>= 1; }
  return bits + value;
}

SEC("fentry/libc:malloc")
int BPF_PROG(on_malloc, __u64 size) {
  /* malloc itself, and who called it. */
  void *frames[2] = {};
  __u32 bits = bits_of(size);
  __u64 *count = bpf_map_lookup_elem(&by_bits, &bits);
  if (count) __sync_fetch_and_add(count, 1);

  if (bpf_get_stack(ctx, frames, sizeof(frames), BPF_F_USER_STACK) < (long)sizeof(frames)) return 0;
  struct sizes *sizes = bpf_map_lookup_elem(&callers, &frames[1]);
  if (!sizes) {
    struct sizes none = {};
    bpf_map_update_elem(&callers, &frames[1], &none, BPF_NOEXIST);
    sizes = bpf_map_lookup_elem(&callers, &frames[1]);
    if (!sizes) return 0;
  }
  __sync_fetch_and_add(&sizes->calls, 1);
  __sync_fetch_and_add(&sizes->bytes, size);
  /* Two threads at once may leave the smaller one: good enough for a maximum. */
  if (size > sizes->largest) sizes->largest = size;
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
