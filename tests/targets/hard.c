/*
 * A busy process that checks itself, for `multitrace run` to be broken on: threads that call `touch` with good and bad
 * addresses and `compute`, until a line comes on standard input; then it says how often, and whether all went well.
 *
 *     hard THREADS [MODES]    h: handles SIGSEGV, and gets some   c: makes children   x: dies of SIGSEGV at the end
 *                             e: execs itself at the end          p: seccomp filter   n: no new privileges
 *                             q: waits for a line before it works k: calls `compute` only
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone, noipa))

NOINLINE int touch(const char *pointer) {
  __asm__ volatile("" ::: "memory");
  return pointer != 0;
}

NOINLINE long compute(long n) {
  __asm__ volatile("" ::: "memory");
  return 3 * n + 1;
}

NOINLINE int never(void) {
  __asm__ volatile("" ::: "memory");
  return 1;
}

static volatile int stop;
static long failed, calls;
static int only_compute, handles;
static volatile int started;
static char *volatile nowhere = (char *)16;
static __thread sigjmp_buf back;
static __thread volatile int expected;

static void on_fault(int signal, siginfo_t *info, void *context) {
  (void)info, (void)context;
  if (!expected) {
    static const char text[] = "a fault that is not ours\n";
    if (write(2, text, sizeof text - 1)) {}
    _exit(99);
  }
  expected = 0;
  siglongjmp(back, signal);
}

static void fault(void) {
  expected = 1;
  if (sigsetjmp(back, 1) == 0) {
    *nowhere = 1;
    __sync_fetch_and_add(&failed, 1);
  }
}

static void *work(void *arg) {
  long thread = (long)arg, made = 0;
  static const char text[] = "a text that is there";
  const char *pointers[] = {text, 0, (char *)0x7fffffffe000, (char *)0xdead000000000000, (char *)0x10000};
  __sync_fetch_and_add(&started, 1);
  for (long i = thread; !stop; i++) {
    if (compute(i) != 3 * i + 1) __sync_fetch_and_add(&failed, 1);
    made++;
    if (only_compute) continue;
    if (touch(pointers[i % 5]) != (i % 5 != 1)) __sync_fetch_and_add(&failed, 1);
    if (handles && i % 1024 == 0) fault();
  }
  __sync_fetch_and_add(&calls, made);
  return 0;
}

static void filter(void) {
  /* What this program itself needs from here on, and nothing else: any other system call ends it. */
#define ALLOW(n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, n, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      ALLOW(SYS_read),       ALLOW(SYS_write),          ALLOW(SYS_exit_group), ALLOW(SYS_exit),
      ALLOW(SYS_futex),      ALLOW(SYS_rt_sigprocmask), ALLOW(SYS_madvise),    ALLOW(SYS_rt_sigreturn),
      ALLOW(SYS_restart_syscall), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)};
  struct sock_fprog program = {sizeof code / sizeof *code, code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program))
    exit(98);
}

static void wait_for_line(void) {
  char c;
  long got;
  while ((got = read(0, &c, 1)) != 0 && (got < 0 ? errno == EINTR : c != '\n')) {}
}

int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 1;
  const char *modes = argc > 2 ? argv[2] : "";
  pthread_t ids[64];
  setvbuf(stdout, 0, _IOLBF, 0);
  only_compute = strchr(modes, 'k') != 0;
  handles = strchr(modes, 'h') != 0;
  if (handles) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, 0);
  }
  if (strchr(modes, 'n')) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  printf("pid %d\n", getpid());
  if (strchr(modes, 'q')) wait_for_line();
  for (long i = 0; i < threads; i++) pthread_create(&ids[i], 0, work, (void *)i);
  while (started < threads) usleep(100);
  if (strchr(modes, 'p')) filter();
  printf("works\n");
  if (strchr(modes, 'c'))
    for (int i = 0; i < 40; i++) {
      int status = 0, child = fork();
      if (child == 0) {
        for (long k = 0; k < 1000; k++)
          if (compute(k) != 3 * k + 1 || touch((char *)(k & 1 ? 16 : (long)argv[0])) != 1) _exit(1);
        _exit(7);
      }
      if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7) {
        printf("child: status %x\n", status);
        failed++;
      }
    }
  wait_for_line();
  stop = 1;
  for (int i = 0; i < threads; i++) pthread_join(ids[i], 0);
  printf("done %ld of %ld\n", failed, calls);
  if (strchr(modes, 'x')) *nowhere = 1;
  if (strchr(modes, 'e')) {
    char *again[] = {argv[0], argv[1], 0};
    execv("/proc/self/exe", again);
  }
  return failed != 0;
}
