/*
 * Threads that end inside traced functions: by pthread_exit, cancelled where they wait and wherever they are; with clean-up
 * handlers and destructors of thread-specific data that call traced functions, deep in the stack that is given up.
 */
#define _GNU_SOURCE
#define FUNCTIONS(X) X(exits) X(waits) X(spins) X(tests) X(cleans) X(destroys) X(plain)
#include "../rounds.h"
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>

static unsigned long cleaned_up;
static pthread_key_t key;
static sem_t there;

TRACED unsigned long plain(unsigned long x) {
  ENTER(plain);
  unsigned long y = x * 3 + 1;
  LEAVE(plain);
  return y;
}
TRACED void cleans(void *x) {
  ENTER(cleans);
  __atomic_add_fetch(&cleaned_up, plain((unsigned long)x), __ATOMIC_RELAXED);
  LEAVE(cleans);
}
TRACED void destroys(void *x) {
  ENTER(destroys);
  __atomic_add_fetch(&cleaned_up, plain((unsigned long)x) << 16, __ATOMIC_RELAXED);
  LEAVE(destroys);
}
TRACED void exits(long depth) {
  ENTER(exits);
  pthread_cleanup_push(cleans, (void *)depth);
  if (depth == 0) pthread_exit((void *)33);
  exits(depth - 1);
  pthread_cleanup_pop(0);
  USE(depth);
  LEAVE(exits);
}
TRACED void waits(long depth) {
  ENTER(waits);
  pthread_cleanup_push(cleans, (void *)depth);
  if (depth == 0) {
    sem_post(&there);
    for (;;) pause();
  }
  waits(depth - 1);
  pthread_cleanup_pop(0);
  USE(depth);
  LEAVE(waits);
}
static volatile unsigned long spun;
TRACED void spins(long depth) {
  ENTER(spins);
  if (depth == 0) {
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    sem_post(&there);
    for (;;) spun++;
  }
  spins(depth - 1);
  USE(depth);
  LEAVE(spins);
}
TRACED void tests(long depth) {
  ENTER(tests);
  if (depth == 0) {
    sem_post(&there);
    for (;;) pthread_testcancel();
  }
  tests(depth - 1);
  USE(depth);
  LEAVE(tests);
}

static void *in_exits(void *n) { pthread_setspecific(key, (char *)n + 1); exits((long)n); return NULL; }
static void *in_waits(void *n) { pthread_setspecific(key, (char *)n + 1); waits((long)n); return NULL; }
static void *in_spins(void *n) { pthread_setspecific(key, (char *)n + 1); spins((long)n); return NULL; }
static void *in_tests(void *n) { pthread_setspecific(key, (char *)n + 1); tests((long)n); return NULL; }

static void one_round(void) {
  static int prepared;
  if (!prepared++) {
    pthread_key_create(&key, destroys);
    sem_init(&there, 0, 0);
  }
  cleaned_up = 0;
  void *(*const starts[])(void *) = {in_exits, in_waits, in_spins, in_tests};
  long results[4] = {0, 0, 0, 0};
  for (long i = 0; i < 40; i++) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, starts[i % 4], (void *)(i / 2));
    if (i % 4 != 0) {
      while (sem_wait(&there) != 0 && errno == EINTR) {
      }
      pthread_cancel(thread);
    }
    pthread_join(thread, &result);
    results[i % 4] += result == PTHREAD_CANCELED ? 1000 : (long)result;
  }
  printf("exits %ld waits %ld spins %ld tests %ld cleaned up %lu\n", results[0], results[1], results[2], results[3], cleaned_up);
}
