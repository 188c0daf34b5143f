/* Reads and writes of the running kernel: one function, and many. */
#include "../common.h"

typedef __u64 u64;

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, u64);
  __type(value, u64);
} calls SEC(".maps");

u64 reads;

SEC("fentry/kernel:vfs_read")
int BPF_PROG(on_read, void *file, char *buf, u64 count) {
  __sync_fetch_and_add(&reads, 1);
  return 0;
}

SEC("fentry.multi/kernel:vfs_*")
int any(u64 *ctx) {
  u64 ip = bpf_get_func_ip(ctx), one = 1;
  u64 *n = bpf_map_lookup_elem(&calls, &ip);
  if (n)
    __sync_fetch_and_add(n, 1);
  else
    bpf_map_update_elem(&calls, &ip, &one, BPF_ANY);
  return 0;
}

SEC("fexit.multi/kernel:vfs_write")
int BPF_PROG(on_write, void *file, const char *buf, u64 count, void *pos, long ret) {
  bpf_printk("wrote %ld of %lu", ret, count);
  return 0;
}
