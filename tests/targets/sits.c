/*
 * Threads that sit deep in functions until they are told to go on: one in plain recursion, one under tail calls, one on a
 * coroutine's stack. Prints `pid P`, then `sitting` when all are there; a line of input lets them return. Prints
 * `sum S` and `again S` (the same functions once more), and exits 0.
 */
#define _GNU_SOURCE
#include "called.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <unistd.h>

enum { THREADS = 8, DEPTH = 50 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int there, go;

static void wait_here(void) {
  pthread_mutex_lock(&lock);
  there++;
  pthread_cond_broadcast(&changed);
  while (!go) pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
}
TRACED long sit(long n) {
  long below = 1;
  if (n == 0) wait_here();
  else below = sit(n - 1);
  USE(below);
  return below * 3 + n;
}
TRACED long last(long n) { return sit(n) + 1; }
TRACED long middle(long n) { return last(n + 1); }
TRACED long first(long n) { return middle(n + 1); }

static ucontext_t home, away;
static long result;
static void coroutine(void) { result = first(DEPTH); }
static void *switches(void *stack) {
  getcontext(&away);
  away.uc_stack.ss_sp = stack;
  away.uc_stack.ss_size = 1 << 16;
  away.uc_link = &home;
  makecontext(&away, coroutine, 0);
  swapcontext(&home, &away);
  return (void *)result;
}
static void *sits(void *n) { return (void *)((long)n % 2 ? first((long)n + DEPTH) : sit((long)n + DEPTH)); }

static unsigned long round_of_all(void) {
  pthread_t threads[THREADS + 1];
  for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, sits, (void *)i);
  pthread_create(&threads[THREADS], NULL, switches, malloc(1 << 16));
  pthread_mutex_lock(&lock);
  while (there < THREADS + 1) pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
  if (!go) {
    char line[100];
    printf("sitting\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL) exit(2);
    pthread_mutex_lock(&lock);
    go = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
  }
  unsigned long sum = 0;
  for (int i = 0; i <= THREADS; i++) {
    void *got;
    pthread_join(threads[i], &got);
    sum += (unsigned long)got;
  }
  return sum;
}

int main(void) {
  char line[100];
  printf("pid %d\n", getpid());
  fflush(stdout);
  if (fgets(line, sizeof line, stdin) == NULL) return 2;
  printf("sum %lu\n", round_of_all());
  there = 0;
  printf("again %lu\n", round_of_all());
  return 0;
}
