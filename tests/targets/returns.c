/*
 * Functions that return, and do not, in every way: called by deep recursion, left by longjmp, by pthread_exit and
 * cancellation, on stacks of their own, from signal handlers on an alternate stack, over fork, by tail calls. Prints
 * what it computed, the same in every run, and `name<TAB>returns` lines: how often each function returned.
 */
#define _GNU_SOURCE
#include "called.h"
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static unsigned long returns_deep, returns_mix, returns_many, returns_vary, returns_big, returns_real, returns_tail,
    returns_tail_end, returns_jumps, returns_exits, returns_waits, returns_yields, returns_handler, returns_forks,
    returns_traces, returns_plus;
#define ONE(cell) __atomic_add_fetch(&cell, 1, __ATOMIC_RELAXED)

/* Results of all kinds, arguments in registers and on the stack. */
TRACED unsigned long mix(unsigned long a, unsigned long b) { ONE(returns_mix); return a * 31 + b; }
TRACED long many(long a, long b, long c, long d, long e, long f, long g, long h, long i) {
  ONE(returns_many);
  return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i;
}
TRACED long vary(int n, ...) {
  va_list list;
  va_start(list, n);
  long sum = 0;
  for (int i = 0; i < n; i++) sum += va_arg(list, long) * (i + 1);
  va_end(list);
  ONE(returns_vary);
  return sum;
}
struct big { long a[5]; };
TRACED struct big big(struct big in, long x) {
  for (int i = 0; i < 5; i++) in.a[i] = in.a[i] * 3 + x;
  ONE(returns_big);
  return in;
}
TRACED double real(double x, int n, float y) { ONE(returns_real); return x * n + y; }
TRACED unsigned __int128 plus(unsigned __int128 a, unsigned __int128 b) { ONE(returns_plus); return a + b; }

TRACED unsigned long deep(unsigned long n) {
  unsigned long below = n == 0 ? 7 : deep(n - 1);
  USE(below);
  ONE(returns_deep);
  return below * 3 + n;
}

TRACED long tail_end(long x) { ONE(returns_tail_end); return x * 2 + 1; }
/* -O2 makes the call a jump. */
TRACED long tail(long x) { ONE(returns_tail); return tail_end(x + 5); }

static jmp_buf back;
TRACED void jumps(int depth) {
  if (depth == 0) longjmp(back, 5);
  jumps(depth - 1);
  USE(depth);
  ONE(returns_jumps);
}

TRACED void exits(int depth) {
  if (depth == 0) pthread_exit((void *)33);
  exits(depth - 1);
  USE(depth);
  ONE(returns_exits);
}
static void *exiting(void *unused) { (void)unused; exits(20); return NULL; }
static int cleaned;
static void cleanup(void *unused) { (void)unused; cleaned++; }
static volatile int waiting;
TRACED void waits(int depth) {
  if (depth == 0) {
    pthread_cleanup_push(cleanup, NULL);
    waiting = 1;
    for (;;) pause();
    pthread_cleanup_pop(1);
  } else waits(depth - 1);
  USE(depth);
  ONE(returns_waits);
}
static void *waiter(void *unused) { (void)unused; waits(15); return NULL; }

/* Coroutines: calls under way on several stacks, in turns. */
enum { COROUTINES = 4 };
static ucontext_t main_context, contexts[COROUTINES];
static char *stacks[COROUTINES];
static unsigned long yielded;
TRACED unsigned long yields(int me, int depth) {
  unsigned long below = depth == 0 ? me : yields(me, depth - 1);
  USE(below);
  swapcontext(&contexts[me], &main_context);
  ONE(returns_yields);
  return below * 2 + depth;
}
static void coroutine(int me) { yielded += yields(me, 6); }

static volatile unsigned long handled;
TRACED unsigned long handler_work(unsigned long x) { ONE(returns_handler); return mix(x, 3); }
static void on_signal(int number) { (void)number; handled += handler_work(1); }

TRACED int forks(int depth) {
  int pid = depth == 0 ? fork() : forks(depth - 1);
  USE(pid);
  ONE(returns_forks);
  return pid;
}

TRACED int traces(int depth, void **frames, int most) {
  int n = depth == 0 ? backtrace(frames, most) : traces(depth - 1, frames, most);
  USE(n);
  ONE(returns_traces);
  return n;
}

static void *churn(void *argument) {
  unsigned long x = (unsigned long)argument;
  for (int i = 0; i < 20000; i++) x = mix(x, i) + deep(i % 7) + tail(i);
  return (void *)x;
}

int main(int argc, char **argv) {
  unsigned long depth = argc > 1 ? strtoul(argv[1], NULL, 0) : 100000;
  (void)argv;
  printf("mix %lu many %ld vary %ld\n", mix(3, 4), many(1, 2, 3, 4, 5, 6, 7, 8, 9), vary(3, 4l, 5l, 6l));
  struct big b = big((struct big){{1, 2, 3, 4, 5}}, 10);
  unsigned __int128 p = plus((unsigned __int128)1 << 64 | 5, (unsigned __int128)7 << 64 | ~0ul);
  printf("big %ld %ld real %.3f plus %lu %lu\n", b.a[0], b.a[4], real(1.5, 3, 0.25f), (unsigned long)(p >> 64), (unsigned long)p);
  printf("deep %lu\n", deep(depth));
  printf("tail %ld\n", tail(3));
  int jumped = 0;
  for (int i = 0; i < 50; i++) {
    if (setjmp(back) == 0) jumps(i);
    else jumped++;
    mix(i, jumped);
  }
  printf("jumped %d\n", jumped);
  void *result;
  pthread_t thread;
  pthread_create(&thread, NULL, exiting, NULL);
  pthread_join(thread, &result);
  printf("exited %ld\n", (long)result);
  pthread_create(&thread, NULL, waiter, NULL);
  while (!waiting) usleep(1000);
  pthread_cancel(thread);
  pthread_join(thread, &result);
  printf("cancelled %d cleaned %d\n", result == PTHREAD_CANCELED, cleaned);
  for (int i = 0; i < COROUTINES; i++) {
    stacks[i] = malloc(65536);
    getcontext(&contexts[i]);
    contexts[i].uc_stack.ss_sp = stacks[i];
    contexts[i].uc_stack.ss_size = 65536;
    contexts[i].uc_link = &main_context;
    makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
  }
  for (int turn = 0; turn < 8; turn++)
    for (int i = 0; i < COROUTINES; i++) swapcontext(&main_context, &contexts[i]);
  printf("yielded %lu\n", yielded);
  stack_t alternate = {.ss_sp = malloc(65536), .ss_size = 65536};
  sigaltstack(&alternate, NULL);
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
  sigaction(SIGUSR1, &action, NULL);
  for (int i = 0; i < 100; i++) raise(SIGUSR1);
  printf("handled %lu\n", handled);
  fflush(stdout);
  int pid = forks(5);
  if (pid == 0) _exit(mix(1, 2) == 33 && deep(10) != 0 ? 44 : 1);
  int status;
  waitpid(pid, &status, 0);
  printf("child %d\n", WEXITSTATUS(status));
  void *frames[64];
  int n = traces(10, frames, 64);
  char **symbols = backtrace_symbols(frames, n);
  int inside = 0;
  for (int i = 0; i < n; i++) inside += strstr(symbols[i], "returns") != NULL || strstr(symbols[i], "libc") != NULL;
  printf("frames %d inside %d\n", n, inside);
  pthread_t threads[8];
  unsigned long sum = 0;
  for (long i = 0; i < 8; i++) pthread_create(&threads[i], NULL, churn, (void *)i);
  for (int i = 0; i < 8; i++) {
    pthread_join(threads[i], &result);
    sum += (unsigned long)result;
  }
  printf("churned %lu\n", sum);
  printf("mix\t%lu\nmany\t%lu\nvary\t%lu\nbig\t%lu\nreal\t%lu\nplus\t%lu\ndeep\t%lu\ntail\t%lu\ntail_end\t%lu\njumps\t%lu\nexits\t%lu\nwaits\t%lu\n"
         "yields\t%lu\nhandler_work\t%lu\nforks\t%lu\ntraces\t%lu\n",
         returns_mix, returns_many, returns_vary, returns_big, returns_real, returns_plus, returns_deep, returns_tail, returns_tail_end,
         returns_jumps, returns_exits, returns_waits, returns_yields, returns_handler, returns_forks, returns_traces);
  return 0;
}
