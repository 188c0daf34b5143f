/*
 * Functions with room for a jump of two bytes only, called by four threads: branches go to their third or fourth byte,
 * or another function follows at once. Beside them libc's copying functions, which are of the same kind.
 *
 *   islands N              each thread calls each function N times
 *   islands N tick         the same, while a timer's signals interrupt the main thread
 *   islands serve          threads call until end of input; prints `ready` first
 *   islands redirect       the handler of a signal makes the interrupted thread call `looped` and, where that is
 *                          patched with a short jump, stands behind that jump; prints `island` or `entry`, and waits
 *                          for a line before it returns
 *   islands spin           prints `ready`, stands at one instruction until its thread is moved, and prints `spun`
 *
 * Prints `name<TAB>calls` for each function and `checksum ok`; a wrong result gives `checksum bad` and exit status 1.
 */
#define _GNU_SOURCE
#include "called.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

enum { THREADS = 4, SIZE = 512 };

/* looped counts down from its argument and gives 7; middle jumps into the middle of it; tiny is followed at once. */
__asm__(".text\n"
        ".p2align 5\n"
        ".globl looped, middle, tiny, behind_tiny\n"
        ".type looped, @function\n.type middle, @function\n.type tiny, @function\n.type behind_tiny, @function\n"
        "looped: .cfi_startproc\n mov %rdi, %rax\n 1: dec %rax\n jns 1b\n mov $7, %eax\n ret\n .cfi_endproc\n"
        ".size looped, .-looped\n"
        ".p2align 5\n"
        "middle: .cfi_startproc\n lea 1(%rdi), %rax\n jmp looped + 3\n .cfi_endproc\n"
        ".size middle, .-middle\n"
        ".p2align 5\n"
        "tiny: .cfi_startproc\n xor %eax, %eax\n ret\n .cfi_endproc\n"
        ".size tiny, .-tiny\n"
        "behind_tiny: .cfi_startproc\n mov $9, %eax\n ret\n .cfi_endproc\n"
        ".size behind_tiny, .-behind_tiny\n"
        ".globl spin, spun\n"
        "spin: jmp spin\n"
        "spun: ret\n"
        ".p2align 5\n");
long looped(long), middle(long);
int tiny(void), behind_tiny(void);
/* A thread in spin stands at its first instruction, for ever; at spun it returns. */
void spin(void);

/* Pointers that the compiler does not see through: every call is one of the library's function. */
static void *(*volatile copy)(void *, const void *, size_t) = memcpy;
static void *(*volatile move)(void *, const void *, size_t) = memmove;
static size_t (*volatile length)(const char *) = strlen;
#ifdef __GLIBC__
static void *(*volatile copy_on)(void *, const void *, size_t) = mempcpy;
#endif

static volatile int bad;
static volatile int stop;
static unsigned long calls_each;
static unsigned long rounds_of[THREADS];

static void one_round(unsigned long i) {
  char a[SIZE], b[SIZE];
  unsigned long n = i % (SIZE - 1);
  for (int k = 0; k < SIZE; k++) a[k] = (char)('a' + (k + i) % 26), b[k] = '!';
  if (copy(b, a, n) != b) bad = 1;
  for (unsigned long k = 0; k < SIZE; k++) if (b[k] != (k < n ? a[k] : '!')) bad = 1;
  if (move(a + 1, a, n) != a + 1) bad = 1;
  for (unsigned long k = 0; k < n; k++) if (a[k + 1] != b[k]) bad = 1;
#ifdef __GLIBC__
  if (copy_on(b, a, n) != b + n) bad = 1;
#endif
  b[n] = 0;
  if (length(b) != n) bad = 1;
  if (looped((long)(i % 5)) != 7 || middle((long)(i % 3)) != 7 || tiny() != 0 || behind_tiny() != 9) bad = 1;
}

static void *work(void *argument) {
  long me = (long)argument;
  for (unsigned long i = 0; i < calls_each && !stop; i++) {
    one_round(i);
    rounds_of[me]++;
  }
  return NULL;
}

static void tick(int number) { (void)number; }

static volatile int stood;

static void redirect(int number, siginfo_t *info, void *context) {
  (void)number, (void)info;
  greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *entry = (const unsigned char *)looped;
  greg_t at = (greg_t)entry;
  if (entry[0] == 0xeb) at += 2 + (signed char)entry[1];
  stood = at != (greg_t)entry;
  /* As `call looped` would: the code interrupted keeps nothing below the stack pointer. */
  g[REG_RSP] -= 8;
  *(greg_t *)g[REG_RSP] = g[REG_RIP];
  g[REG_RIP] = at;
  const char *said = stood ? "island\n" : "entry\n";
  char got;
  if (write(1, said, strlen(said)) < 0 || read(0, &got, 1) < 0) bad = 1;
}

static int be_redirected(void) {
  struct sigaction action = {.sa_sigaction = redirect, .sa_flags = SA_SIGINFO};
  sigaction(SIGUSR1, &action, NULL);
  printf("ready\n");
  fflush(stdout);
  char line[16];
  if (!fgets(line, 2, stdin)) return 2;
  /* The signal comes as this system call returns; nothing is kept below the stack pointer then. */
  long result = SYS_tgkill, pid = getpid(), tid = syscall(SYS_gettid), number = SIGUSR1;
  __asm__ volatile("sub $128, %%rsp\n syscall\n add $128, %%rsp"
                   : "+a"(result), "+D"(pid), "+S"(tid), "+d"(number)
                   :
                   : "rcx", "r11", "memory", "cc");
  /* looped was called with rdi = our pid: it counted down from there. */
  printf("checksum %s\n", result == 7 && !bad ? "ok" : "bad");
  return result != 7 || bad;
}

int main(int argc, char **argv) {
  setvbuf(stdin, NULL, _IONBF, 0);
  if (argc < 2) return 2;
  if (strcmp(argv[1], "redirect") == 0) return be_redirected();
  if (strcmp(argv[1], "spin") == 0) {
    printf("ready\n");
    fflush(stdout);
    spin();
    printf("spun\n");
    return 0;
  }
  int serve = strcmp(argv[1], "serve") == 0;
  calls_each = serve ? ~0ul : strtoul(argv[1], NULL, 10);
  pthread_t threads[THREADS];
  for (long i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, work, (void *)i) != 0) return 2;
  if (serve || argc > 2) {
    signal(SIGALRM, tick);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 300}, {0, 300}}, NULL);
  }
  if (serve) {
    printf("ready\n");
    fflush(stdout);
    char got;
    while (read(0, &got, 1) != 0) {}
    stop = 1;
  }
  unsigned long rounds = 0;
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL), rounds += rounds_of[i];
  /* The counts of the program's own functions: middle is not a call of looped. */
  const char *names[] = {"looped", "middle", "tiny", "behind_tiny"};
  for (int i = 0; i < 4; i++) printf("%s\t%lu\n", names[i], rounds);
  printf("rounds %lu\nchecksum %s\n", rounds, bad ? "bad" : "ok");
  return bad;
}
