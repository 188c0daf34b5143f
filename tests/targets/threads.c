/*
 * Eight threads that call the same functions at once, each a known number of times. Prints `name<TAB>calls` for
 * each function (the threads' own counters, added up) and a checksum.
 *
 *   threads [rounds]      rounds of each thread (default 20000)
 */
#include "called.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 8 };
#define EACH(X)                                                                                                \
  X(alpha) X(beta) X(gamma_) X(delta) X(epsilon) X(zeta) X(eta) X(theta) X(iota) X(kappa) X(lambda) X(mu)       \
  X(nu) X(xi) X(omicron) X(pi) X(rho) X(sigma) X(tau) X(upsilon)
#define INDEX(name) i_##name,
enum { EACH(INDEX) i_count };
#define NAME(name) #name,
static const char *const names[] = {EACH(NAME)};

static __thread unsigned long calls[i_count];
static unsigned long totals[i_count];
static unsigned long checksum;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t start;

#define FUNCTION(name)                                                                                         \
  TRACED unsigned long name(unsigned long x, unsigned long y) {                                                \
    calls[i_##name]++;                                                                                         \
    return x * (2 * i_##name + 3) + (y ^ x >> 7);                                                              \
  }
EACH(FUNCTION)

typedef unsigned long function(unsigned long, unsigned long);
#define ADDRESS(name) name,
static function *const functions[] = {EACH(ADDRESS)};

static unsigned rounds = 20000;

/* Every thread calls function k once in each round that k + 1 divides or that is below a thousand. */
static void *work(void *argument) {
  unsigned long x = (unsigned long)argument;
  pthread_barrier_wait(&start);
  for (unsigned round = 0; round < rounds; round++)
    for (unsigned k = 0; k < i_count; k++)
      if (round < 1000 || round % (k + 1) == 0) x = functions[k](x, round);
  pthread_mutex_lock(&lock);
  for (unsigned k = 0; k < i_count; k++) totals[k] += calls[k];
  checksum += x;
  pthread_mutex_unlock(&lock);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc > 1) rounds = (unsigned)atoi(argv[1]);
  pthread_t threads[THREADS];
  pthread_barrier_init(&start, NULL, THREADS);
  for (long i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, work, (void *)(i + 1)) != 0) return 1;
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < i_count; i++) printf("%s\t%lu\n", names[i], totals[i]);
  printf("checksum\t%lx\n", checksum);
  return 0;
}
