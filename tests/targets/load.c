/*
 * A program to attach to and detach from: 16 threads that call 200 functions (other numbers with -DTHREADS=… and
 * -DFUNCTIONS=1000), told what to do through standard input. A round is one call of each function, in order; a thread counts its own rounds.
 *
 *   run N     every thread makes N rounds, then waits; answers `ran R` (rounds of all threads so far)
 *   go        every thread makes rounds until `hold`; answers `going R`
 *   hold      every thread finishes its round and waits; answers `held R`
 *
 * The first line printed is `pid P`. At the end of input or SIGTERM it prints `total R` (each function was called
 * exactly R times) and `checksum ok`, and exits 0; a wrong result anywhere gives `checksum bad` and exit status 1.
 */
#define _GNU_SOURCE
#include "called.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef THREADS
#define THREADS 16
#endif
#ifndef FUNCTIONS
#define FUNCTIONS 200
#endif

typedef unsigned long function(unsigned long x);
/* Shapes differ, so that the displaced first instructions do. */
#define PLAIN(n) TRACED unsigned long work_##n(unsigned long x) { return (x << 1 | x >> 63) + 1##n; }
#define MEMORY(n) static volatile unsigned long cell_##n = 1##n;                                               \
  TRACED unsigned long work_##n(unsigned long x) { return x + cell_##n; }
#define BRANCH(n) TRACED unsigned long work_##n(unsigned long x) { if (x & 1) return x * 3 + 1##n; return x / 2 + 1##n; }
#define CALLS(n) TRACED unsigned long work_##n(unsigned long x) { unsigned long y = inner(x ^ 1##n); USE(y); return y + 1; }
#define FRAME(n) TRACED unsigned long work_##n(unsigned long x) {                                              \
  volatile unsigned long a[24]; a[x % 24] = x; a[(x + 1) % 24] = 1##n; return a[x % 24] + a[(x + 1) % 24]; }

static TRACED unsigned long inner(unsigned long x) { return x * 2654435761ul; }
#define TEN(X, Y, Z, V, W, t) X(t##0) Y(t##1) Z(t##2) V(t##3) W(t##4) X(t##5) Y(t##6) Z(t##7) V(t##8) W(t##9)
#define HUNDRED(h)                                                                                             \
  TEN(PLAIN, MEMORY, BRANCH, CALLS, FRAME, h##0) TEN(PLAIN, MEMORY, BRANCH, CALLS, FRAME, h##1)                 \
  TEN(PLAIN, MEMORY, BRANCH, CALLS, FRAME, h##2) TEN(PLAIN, MEMORY, BRANCH, CALLS, FRAME, h##3)                 \
  TEN(PLAIN, MEMORY, BRANCH, CALLS, FRAME, h##4) TEN(PLAIN, MEMORY, BRANCH, CALLS, FRAME, h##5)                 \
  TEN(PLAIN, MEMORY, BRANCH, CALLS, FRAME, h##6) TEN(PLAIN, MEMORY, BRANCH, CALLS, FRAME, h##7)                 \
  TEN(PLAIN, MEMORY, BRANCH, CALLS, FRAME, h##8) TEN(PLAIN, MEMORY, BRANCH, CALLS, FRAME, h##9)
HUNDRED(0)
HUNDRED(1)
#if FUNCTIONS == 1000
HUNDRED(2)
HUNDRED(3)
HUNDRED(4)
HUNDRED(5)
HUNDRED(6)
HUNDRED(7)
HUNDRED(8)
HUNDRED(9)
#endif
#define A(n) work_##n,
#define TEN_ADDRESSES(t) TEN(A, A, A, A, A, t)
#define HUNDRED_ADDRESSES(h)                                                                                   \
  TEN_ADDRESSES(h##0) TEN_ADDRESSES(h##1) TEN_ADDRESSES(h##2) TEN_ADDRESSES(h##3) TEN_ADDRESSES(h##4)           \
  TEN_ADDRESSES(h##5) TEN_ADDRESSES(h##6) TEN_ADDRESSES(h##7) TEN_ADDRESSES(h##8) TEN_ADDRESSES(h##9)
static function *const functions[FUNCTIONS] = {
  HUNDRED_ADDRESSES(0) HUNDRED_ADDRESSES(1)
#if FUNCTIONS == 1000
  HUNDRED_ADDRESSES(2) HUNDRED_ADDRESSES(3) HUNDRED_ADDRESSES(4) HUNDRED_ADDRESSES(5)
  HUNDRED_ADDRESSES(6) HUNDRED_ADDRESSES(7) HUNDRED_ADDRESSES(8) HUNDRED_ADDRESSES(9)
#endif
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t told = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
static int busy = THREADS;      /* threads that have not yet finished the last order; they start with a round */
static unsigned long order;     /* changes with every order */
static unsigned long budget;    /* rounds of each thread in this order */
static volatile int stop;       /* finish the round and wait */
static volatile int leave;      /* end the thread */
static unsigned long rounds_of[THREADS];
static volatile int bad;

static unsigned long one_round(void) {
  unsigned long x = 0;
  for (int k = 0; k < FUNCTIONS; k++) x = functions[k](x);
  return x;
}

static void *work(void *argument) {
  long me = (long)argument;
  unsigned long seen = 0;
  unsigned long first = one_round();
  rounds_of[me]++;
  for (;;) {
    pthread_mutex_lock(&lock);
    busy--;
    pthread_cond_signal(&finished);
    while (order == seen) pthread_cond_wait(&told, &lock);
    seen = order;
    unsigned long left = budget;
    pthread_mutex_unlock(&lock);
    if (leave) return NULL;
    for (; left > 0 && !stop; left--) {
      /* Every round starts from the same number, so it must end at the same. */
      if (one_round() != first) bad = 1;
      rounds_of[me]++;
    }
  }
}

/* With the lock held: waits until every thread has finished its order. The rounds of all of them. */
static unsigned long rest(void) {
  while (busy > 0) pthread_cond_wait(&finished, &lock);
  unsigned long total = 0;
  for (int i = 0; i < THREADS; i++) total += rounds_of[i];
  return total;
}

/* With the lock held and every thread at rest. */
static void give(unsigned long rounds) {
  stop = 0;
  budget = rounds;
  busy = THREADS;
  order++;
  pthread_cond_broadcast(&told);
}

static void *listen(void *unused) {
  (void)unused;
  char line[100];
  while (fgets(line, sizeof line, stdin)) {
    unsigned long n;
    pthread_mutex_lock(&lock);
    if (sscanf(line, "run %lu", &n) == 1) {
      rest();
      give(n);
      printf("ran %lu\n", rest());
    } else if (strncmp(line, "go", 2) == 0) {
      unsigned long total = rest();
      give(~0ul);
      printf("going %lu\n", total);
    } else if (strncmp(line, "hold", 4) == 0) {
      stop = 1;
      printf("held %lu\n", rest());
    } else {
      printf("what? %s", line);
    }
    fflush(stdout);
    pthread_mutex_unlock(&lock);
  }
  kill(getpid(), SIGTERM);
  return NULL;
}

int main(void) {
  /* SIGTERM is taken by sigwait below, so every thread starts with it blocked. */
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  pthread_t threads[THREADS], listener;
  for (long i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, work, (void *)i) != 0) return 2;
  pthread_mutex_lock(&lock);
  rest();
  pthread_mutex_unlock(&lock);
  printf("pid %d\n", getpid());
  fflush(stdout);
  pthread_create(&listener, NULL, listen, NULL);
  int got;
  sigwait(&set, &got);
  stop = 1;
  pthread_mutex_lock(&lock);
  unsigned long total = rest();
  leave = 1;
  give(0);
  pthread_mutex_unlock(&lock);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  printf("total %lu\nchecksum %s\n", total, bad ? "bad" : "ok");
  return bad;
}
