/*
 * Functions with the names, prototypes and bodies of those that Linux has for tests of tracing programs (bpf_fentry_test…,
 * bpf_modify_return_test…), called with the arguments that BPF_PROG_TEST_RUN calls them with; and of three others of the
 * kernel, which see what system calls are given. Prints `pid P`, then answers each line of input:
 *
 *   run      every function once: `ran R`, R as the test run of a modify-return program gives it
 *   pgid N   `pgid R`, do_getpgid(N)
 *   alloc N  `alloc R`, vfs_fallocate(file, 0, N, 1)
 *   open     `open R`, do_sys_openat2 of a file that there is not
 *   many N   every function of `run` N times: `many N`
 *
 * Compile with -g: its types are looked at.
 */
#include "called.h"
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t u64;
typedef uint32_t u32;

struct bpf_fentry_test_t {
  struct bpf_fentry_test_t *a;
};
struct open_how {
  u64 flags;
  u64 mode;
  u64 resolve;
};
struct file {
  long size;
};

TRACED int bpf_fentry_test1(int a) { return a + 1; }
TRACED int bpf_fentry_test2(int a, u64 b) { return (int)(a + b); }
TRACED int bpf_fentry_test3(char a, int b, u64 c) { return (int)(a + b + c); }
TRACED int bpf_fentry_test4(void *a, char b, int c, u64 d) { return (int)((long)a + b + c + d); }
TRACED int bpf_fentry_test5(u64 a, void *b, short c, int d, u64 e) { return (int)(a + (long)b + c + d + e); }
TRACED int bpf_fentry_test6(u64 a, void *b, short c, int d, void *e, u64 f) {
  return (int)(a + (long)b + c + d + (long)e + f);
}
TRACED int bpf_fentry_test7(struct bpf_fentry_test_t *arg) {
  USE(arg);
  return (int)(long)arg;
}
TRACED int bpf_fentry_test8(struct bpf_fentry_test_t *arg) { return (int)(long)arg->a; }
TRACED u32 bpf_fentry_test9(u32 *a) { return *a; }
TRACED int bpf_fentry_test10(const void *a) {
  USE(a);
  return (int)(long)a;
}

TRACED int bpf_modify_return_test(int a, int *b) {
  *b += 1;
  return a + *b;
}
TRACED int bpf_modify_return_test2(int a, int *b, short c, int d, void *e, char f, int g) {
  *b += 1;
  return (int)(a + *b + c + d + (long)e + f + g);
}

TRACED int do_getpgid(int pid) {
  USE(pid);
  return -ESRCH;
}
TRACED int vfs_fallocate(struct file *file, int mode, long long offset, long long len) {
  USE(mode);
  return offset < 0 || len <= 0 ? -EINVAL : file->size < 0;
}
TRACED int do_sys_openat2(int dfd, const char *filename, struct open_how *how) {
  USE(dfd);
  return filename != NULL && how->resolve == 0 ? -ENOENT : -EINVAL;
}

static int run(void) {
  struct bpf_fentry_test_t arg = {0};
  u32 word = 0;
  int b = 2, changed = 0;
  if (bpf_fentry_test1(1) != 2 || bpf_fentry_test2(2, 3) != 5 || bpf_fentry_test3(4, 5, 6) != 15 ||
      bpf_fentry_test4((void *)7, 8, 9, 10) != 34 || bpf_fentry_test5(11, (void *)12, 13, 14, 15) != 65 ||
      bpf_fentry_test6(16, (void *)17, 18, 19, (void *)20, 21) != 111 || bpf_fentry_test7(0) != 0 ||
      bpf_fentry_test8(&arg) != 0 || bpf_fentry_test9(&word) != 0 || bpf_fentry_test10(0) != 0)
    return -1;
  int result = bpf_modify_return_test(1, &b);
  changed += b != 2;
  b = 2;
  result += bpf_modify_return_test2(1, &b, 3, 4, (void *)5, 6, 7);
  changed += b != 2;
  return changed << 16 | result;
}

int main(void) {
  char line[256];
  struct file file = {10};
  struct open_how how = {02, 0, 0};
  setvbuf(stdout, 0, _IOLBF, 0);
  printf("pid %d\n", getpid());
  while (fgets(line, sizeof line, stdin) != NULL) {
    char *word = strchr(line, ' ');
    long n = word ? atol(word + 1) : 0;
    if (strncmp(line, "run", 3) == 0) printf("ran %d\n", run());
    else if (strncmp(line, "pgid", 4) == 0) printf("pgid %d\n", do_getpgid((int)n));
    else if (strncmp(line, "alloc", 5) == 0) printf("alloc %d\n", vfs_fallocate(&file, 0, n, 1));
    else if (strncmp(line, "open", 4) == 0) printf("open %d\n", do_sys_openat2(-100, "/no/such/file", &how));
    else if (strncmp(line, "many", 4) == 0) {
      for (long i = 0; i < n; i++) run();
      printf("many %ld\n", n);
    }
  }
  return 0;
}
