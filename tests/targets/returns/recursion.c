/*
 * Deep recursion: 100,000 frames of one function, of two in turns, and of four threads at once, each on a large stack.
 */
#define FUNCTIONS(X) X(deep) X(even) X(odd) X(wide)
#include "../rounds.h"
#include <pthread.h>

#ifndef FRAMES
#define FRAMES 100000
#endif
enum { THREADS = 4 };

TRACED unsigned deep(unsigned n) {
  ENTER(deep);
  unsigned below = n == 0 ? 7 : deep(n - 1);
  USE(below);
  LEAVE(deep);
  return below * 3 + n;
}
TRACED unsigned odd(unsigned n);
TRACED unsigned even(unsigned n) {
  ENTER(even);
  unsigned below = n == 0 ? 1 : odd(n - 1);
  USE(below);
  LEAVE(even);
  return below * 5 + 1;
}
TRACED unsigned odd(unsigned n) {
  ENTER(odd);
  unsigned below = n == 0 ? 2 : even(n - 1);
  USE(below);
  LEAVE(odd);
  return below * 7 + 2;
}
TRACED unsigned wide(unsigned n, volatile unsigned *from) {
  ENTER(wide);
  volatile unsigned room[20];
  room[n % 20] = *from;
  unsigned below = n == 0 ? 3 : wide(n - 1, &room[n % 20]);
  USE(below);
  LEAVE(wide);
  return below * 11 + room[n % 20];
}

static void *on_large_stack(void *n) {
  volatile unsigned one = 1;
  return (void *)(unsigned long)(deep(FRAMES) + even(FRAMES) + wide(FRAMES / 4, &one) + (unsigned)(long)n);
}

static unsigned with_threads(int threads) {
  pthread_t ids[THREADS];
  pthread_attr_t large;
  pthread_attr_init(&large);
  pthread_attr_setstacksize(&large, FRAMES * 200ul + (8 << 20));
  for (long i = 0; i < threads; i++) pthread_create(&ids[i], &large, on_large_stack, (void *)i);
  unsigned sum = 0;
  for (int i = 0; i < threads; i++) {
    void *result;
    pthread_join(ids[i], &result);
    sum = mixed(sum, (unsigned long)result);
  }
  return sum;
}

static void one_round(void) {
  printf("alone %u\n", with_threads(1));
  printf("together %u\n", with_threads(THREADS));
}
