/* Arguments and results by plain programs, as the prototypes have them: of every size, signed and not, pointers. */
#include "test_run.h"

struct seen {
  __u64 calls;
  __s64 args[7];
  __s64 result;
};
/* At entry, at return: bpf_fentry_test1 to 10 have 1 to 10, bpf_modify_return_test and test2 11 and 12. */
struct seen entry[13], returned[13];

#define ENTRY(n, target, params, ...)                                                                          \
  SEC("fentry/" #target) int BPF_PROG(entry_##n, PARAMS params) {                                              \
    __s64 args[] = {__VA_ARGS__};                                                                              \
    entry[n].calls++;                                                                                          \
    for (int i = 0; i < sizeof(args) / 8; i++) entry[n].args[i] = args[i];                                     \
    return 0;                                                                                                  \
  }
#define EXIT(n, target, params, ...)                                                                           \
  SEC("fexit/" #target) int BPF_PROG(exit_##n, PARAMS params, int r) {                                         \
    __s64 args[] = {__VA_ARGS__};                                                                              \
    returned[n].calls++;                                                                                       \
    for (int i = 0; i < sizeof(args) / 8; i++) returned[n].args[i] = args[i];                                  \
    returned[n].result = r;                                                                                    \
    return 0;                                                                                                  \
  }
#define BOTH(n, target, params, ...)                                                                           \
  ENTRY(n, target, params, __VA_ARGS__)                                                                        \
  EXIT(n, target, params, __VA_ARGS__)

BOTH(1, bpf_fentry_test1, (int a), a)
BOTH(2, bpf_fentry_test2, (int a, __u64 b), a, b)
BOTH(3, bpf_fentry_test3, (char a, int b, __u64 c), a, b, c)
BOTH(4, bpf_fentry_test4, (void *a, char b, int c, __u64 d), (long)a, b, c, d)
BOTH(5, bpf_fentry_test5, (__u64 a, void *b, short c, int d, __u64 e), a, (long)b, c, d, e)
BOTH(6, bpf_fentry_test6, (__u64 a, void *b, short c, int d, void *e, __u64 f), a, (long)b, c, d, (long)e, f)
BOTH(7, bpf_fentry_test7, (struct bpf_fentry_test_t * a), (long)a)
BOTH(10, bpf_fentry_test10, (const void *a), (long)a)

/* A member through a pointer; what it points to is 0, and so is what a pointer to nothing gives. */
SEC("fentry/bpf_fentry_test8")
int BPF_PROG(entry_8, struct bpf_fentry_test_t *a) {
  entry[8].calls++;
  entry[8].args[0] = a != 0;
  entry[8].args[1] = (long)a->a;
  entry[8].args[2] = (long)a->a->a;
  return 0;
}
/* A pointer to a number is a number to the program. */
SEC("fexit/bpf_fentry_test9")
int BPF_PROG(exit_9, __u32 *a, __u32 r) {
  __u32 word = 7;
  returned[9].calls++;
  returned[9].args[0] = bpf_probe_read(&word, sizeof(word), a);
  returned[9].args[1] = word;
  returned[9].result = r;
  return 0;
}

SEC("fentry/bpf_modify_return_test")
int BPF_PROG(entry_11, int a, int *b) {
  int value = 0;
  entry[11].calls++;
  entry[11].args[0] = a;
  bpf_probe_read(&value, sizeof(value), b);
  entry[11].args[1] = value;
  return 0;
}
/* The function has changed what its argument points to. */
SEC("fexit/bpf_modify_return_test")
int BPF_PROG(exit_11, int a, int *b, int r) {
  int value = 0;
  returned[11].calls++;
  returned[11].args[0] = a;
  bpf_probe_read(&value, sizeof(value), b);
  returned[11].args[1] = value;
  returned[11].result = r;
  return 0;
}
/* The seventh argument is on the stack. */
SEC("fexit/bpf_modify_return_test2")
int BPF_PROG(exit_12, int a, int *b, short c, int d, void *e, char f, int g, int r) {
  returned[12].calls++;
  returned[12].args[0] = a;
  returned[12].args[2] = c;
  returned[12].args[3] = d;
  returned[12].args[4] = (long)e;
  returned[12].args[5] = f;
  returned[12].args[6] = g;
  returned[12].result = r;
  return 0;
}

/* Negative numbers of 32 and 64 bits, a string, a structure: what a system call gives. */
struct {
  __s64 pid, pid_result, offset, length, mode, allocate_result, dfd, open_result, flags;
  char name[32];
} call;
__u64 pgid_calls, allocate_calls, open_calls;

SEC("fexit/do_getpgid")
int BPF_PROG(on_getpgid, int pid, int r) {
  if (pid >= 0) return 0;
  pgid_calls++;
  call.pid = pid;
  call.pid_result = r;
  return 0;
}

SEC("fexit/vfs_fallocate")
int BPF_PROG(on_fallocate, void *file, int mode, long long offset, long long len, int r) {
  if (offset >= 0) return 0;
  allocate_calls++;
  call.offset = offset;
  call.length = len;
  call.mode = mode;
  call.allocate_result = r;
  return 0;
}

SEC("fexit/do_sys_openat2")
int BPF_PROG(on_open, int dfd, const char *filename, struct open_how *how, int r) {
  char name[32] = {};
  if (bpf_probe_read_user_str(name, sizeof(name), filename) < 0) return 0;
  if (bpf_strncmp(name, 8, "/no/such") != 0) return 0;
  open_calls++;
  __builtin_memcpy(call.name, name, sizeof(name));
  call.dfd = dfd;
  call.flags = how->flags & 3;
  call.open_result = r;
  return 0;
}
