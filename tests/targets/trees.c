/* Call trees that are known beforehand, for trace and latency: what to do is the first argument. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define KEEP __attribute__((noinline, noclone, noipa))

enum colour { RED, GREEN = 5, BLUE };
struct point {
  int x, y;
};

static void nap(long us) {
  struct timespec t = {us / 1000000, us % 1000000 * 1000};
  while (nanosleep(&t, &t)) {
  }
}

KEEP int leaf(int n) { return n * 2; }
KEEP int middle(int n) { return leaf(n) + leaf(n + 1); }
KEEP int top(int n) { return middle(n) - leaf(n); }

KEEP const char *typed(const char *name, enum colour c, bool yes, int8_t small, uint64_t big, struct point *p) {
  static char text[64];
  snprintf(text, sizeof text, "%s-%d", (uintptr_t)name > 4095 ? name : "none", (int)c + yes + small + (int)big + (p ? p->x : 0));
  return name ? text : NULL;
}
KEEP void nothing(void *p) { __asm__ volatile("" : : "r"(p) : "memory"); }
KEEP bool odd(unsigned n) { return n & 1; }
KEEP enum colour mixed(double d, int n, float f) { return d + f > n ? GREEN : RED; }
KEEP long negative(long n) { return -n; }
/* Eight integers, of which two are on the stack; a structure by value; one as the result. */
KEEP long many(int a, int b, int c, int d, int e, int f, long g, short h) {
  return a + b + c + d + e + f + g + h;
}
struct pair {
  long first;
  double second;
};
KEEP struct pair swapped(struct pair p, struct point q) {
  return (struct pair){q.x + q.y, p.second + p.first};
}

KEEP int fib(int n) {
  if (n < 2) return n;
  volatile int first = fib(n - 1);
  volatile int second = fib(n - 2);
  return first + second;
}

KEEP int deep(int n) {
  if (n == 0) return 0;
  volatile int below = deep(n - 1);
  return below + 1;
}

/* A tail call from one traced function to another. */
KEEP int tail_end(int n) { return leaf(n); }
KEEP int tail_begin(int n) {
  __asm__ volatile("");
  return tail_end(n + 1);
}

static jmp_buf global_env;
KEEP void jumper(jmp_buf *env, int n) {
  leaf(n);
  longjmp(*env, 1);
}
KEEP void between(jmp_buf *env, int n) {
  jumper(env, n);
  __asm__ volatile("");
}
KEEP void untraced_cleanup(int n) {
  volatile char room[256];
  room[n & 255] = 1;
  leaf(n);
  __asm__ volatile("");
}
/* Leaves between and jumper, then calls from deeper down the stack than they were. */
KEEP int catcher(int n) {
  jmp_buf env;
  if (setjmp(env) == 0) between(&env, n);
  untraced_cleanup(n + 1);
  return leaf(n + 2);
}
KEEP int global_catcher(int n) {
  if (setjmp(global_env) == 0) between(&global_env, n);
  return leaf(n + 2);
}

KEEP int sleeper(int us) {
  nap(us);
  return us;
}
KEEP int job(int us) { return sleeper(us) + leaf(us); }

static void *worker(void *arg) {
  char name[16];
  int id = (int)(intptr_t)arg;
  snprintf(name, sizeof name, "worker-%d", id);
  pthread_setname_np(pthread_self(), name);
  for (int i = 0; i < 20; i++) job(200 * id);
  /* Who looks for its name finds it. */
  nap(500000);
  return NULL;
}
static void *crowded(void *arg) {
  for (int i = 0; i < 50; i++) top(i + (int)(intptr_t)arg);
  return NULL;
}
KEEP void exits(int n) {
  leaf(n);
  pthread_exit(NULL);
}
static void *exiting(void *arg) {
  exits((int)(intptr_t)arg);
  return NULL;
}

static ucontext_t main_context, other_context;
KEEP int on_other(int n) {
  leaf(n);
  swapcontext(&other_context, &main_context);
  return leaf(n + 1);
}
static void other(void) {
  on_other(7);
  swapcontext(&other_context, &main_context);
}
KEEP int resume(int n) {
  swapcontext(&main_context, &other_context);
  return leaf(n);
}

static volatile int signals;
KEEP void on_signal(int number) {
  leaf(number);
  signals++;
}
/* Calls top while signals come, n of them, on a stack of their own or on that of top. */
static void interrupted(int n, bool own_stack) {
  stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = own_stack ? SA_ONSTACK : 0};
  if (own_stack) sigaltstack(&stack, NULL);
  sigaction(SIGALRM, &action, NULL);
  setitimer(ITIMER_REAL, &(struct itimerval){{0, 1000}, {0, 1000}}, NULL);
  while (signals < n) {
    for (int i = 0; i < 20; i++) top(i);
    nap(100);
  }
  setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "tree";
  int n = argc > 2 ? atoi(argv[2]) : 1;
  if (!strcmp(what, "tree")) {
    for (int i = 0; i < n; i++) top(i);
  } else if (!strcmp(what, "types")) {
    struct point p = {1, 2};
    typed("hello \"you\"\n", GREEN, true, -3, 1ull << 40, &p);
    typed(NULL, 99, false, 3, 0, NULL);
    typed((char *)8, BLUE, false, 3, 0, NULL - 0);
  } else if (!strcmp(what, "results")) {
    nothing(&n);
    odd(3);
    odd(4);
    mixed(1.5, 3, 2.5f);
    negative(5);
    negative(-5);
    many(1, 2, 3, 4, 5, 6, -7, -8);
    swapped((struct pair){1, 0.5}, (struct point){2, 3});
  } else if (!strcmp(what, "fib")) {
    fib(n);
  } else if (!strcmp(what, "deep")) {
    deep(n);
  } else if (!strcmp(what, "tail")) {
    tail_begin(n);
  } else if (!strcmp(what, "jump")) {
    for (int i = 0; i < n; i++) catcher(10 * i);
  } else if (!strcmp(what, "global-jump")) {
    for (int i = 0; i < n; i++) global_catcher(10 * i);
  } else if (!strcmp(what, "sleep")) {
    for (int i = 0; i < n; i++) job(i % 2 ? 5000 : 100);
  } else if (!strcmp(what, "threads")) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, worker, (void *)(intptr_t)(i + 1));
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  } else if (!strcmp(what, "crowd")) {
    pthread_t threads[500];
    for (int i = 0; i < n; i++) pthread_create(&threads[i], NULL, crowded, (void *)(intptr_t)i);
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
  } else if (!strcmp(what, "exit-thread")) {
    pthread_t thread;
    pthread_create(&thread, NULL, exiting, (void *)3);
    pthread_join(thread, NULL);
    leaf(4);
  } else if (!strcmp(what, "coroutine")) {
    static char low[1 << 16];
    char *stack = n == 1 ? low : malloc(1 << 20);
    getcontext(&other_context);
    other_context.uc_stack.ss_sp = stack;
    other_context.uc_stack.ss_size = 1 << 16;
    makecontext(&other_context, other, 0);
    resume(1);
    leaf(2);
    resume(3);
  } else if (!strcmp(what, "signals") || !strcmp(what, "own-stack")) {
    interrupted(n, !strcmp(what, "own-stack"));
  } else if (!strcmp(what, "die")) {
    job(100);
    exit(sleeper(n) ? 7 : 0);
  } else if (!strcmp(what, "busy")) {
    volatile int sum = 0;
    for (;;) sum += top(3);
  } else if (!strcmp(what, "loop")) {
    for (;;) job(n);
  } else if (!strcmp(what, "calls")) {
    volatile int sum = 0;
    for (int i = 0; i < n; i++) sum += leaf(i);
    printf("%d\n", sum);
  }
  return 0;
}
