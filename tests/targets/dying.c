/*
 * Ends by itself after so many microseconds, or when SIGUSR1 tells it to, whatever is done to it meanwhile. Prints
 * nothing.
 *
 *   dying MICROSECONDS [SIGNAL]      exits with status 7, or kills itself with SIGNAL
 */
#include "called.h"
#include <signal.h>
#include <stdlib.h>
#include <time.h>

static volatile sig_atomic_t told;
static void tell(int signal) { told = signal; }

TRACED long spin(long x) { return x * 5 + 1; }

int main(int argc, char **argv) {
  long wanted = argc > 1 ? atol(argv[1]) : 0;
  struct timespec begin, now;
  signal(SIGUSR1, tell);
  clock_gettime(CLOCK_MONOTONIC, &begin);
  volatile long x = 0;
  do {
    for (int i = 0; i < 100; i++) x = spin(x);
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while (!told && (now.tv_sec - begin.tv_sec) * 1000000 + (now.tv_nsec - begin.tv_nsec) / 1000 < wanted);
  if (argc > 2) raise(atoi(argv[2]));
  return 7;
}
