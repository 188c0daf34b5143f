/* Files that a program opens through libc, with what came of it. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct opening {
  __u32 thread;
  __s32 result; /* the descriptor, or -1 */
  char path[240];
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 256 * 1024);
  __type(value, struct opening);
} opened SEC(".maps");

static __always_inline int report(__u64 *ctx, const char *path) {
  struct opening *opening = bpf_ringbuf_reserve(&opened, sizeof(*opening), 0);
  if (!opening) return 0;
  __u64 result = 0;
  bpf_get_func_ret(ctx, &result);
  opening->thread = bpf_get_current_pid_tgid();
  opening->result = result;
  if (bpf_probe_read_user_str(opening->path, sizeof(opening->path), path) <= 0) opening->path[0] = 0;
  bpf_ringbuf_submit(opening, 0);
  return 0;
}

/* int open(const char *path, int flags, ...) */
SEC("fexit.multi/libc:open,libc:open64")
int on_open(__u64 *ctx) {
  return report(ctx, (const char *)ctx[0]);
}

/* int openat(int directory, const char *path, int flags, ...) */
SEC("fexit.multi/libc:openat,libc:openat64")
int on_openat(__u64 *ctx) {
  return report(ctx, (const char *)ctx[1]);
}

char LICENSE[] SEC("license") = "GPL";
