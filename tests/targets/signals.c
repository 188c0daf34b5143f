/*
 * Traced functions called by signal handlers in the middle of traced functions: a timer's handler on an alternate
 * stack, and handlers left by siglongjmp. Prints `ok` lines and `name<TAB>calls`; how often the timer fires
 * differs between runs, so those counts are compared with what multitrace counted plus what it missed.
 */
#include "called.h"
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

static unsigned long calls_main, calls_shared, calls_handler, calls_jumper;
static volatile int wrong;
static volatile sig_atomic_t ticks;
static sigjmp_buf back;

TRACED unsigned long shared(unsigned long x) {
  __atomic_fetch_add(&calls_shared, 1, __ATOMIC_RELAXED);
  return x * 31 + 7;
}
TRACED unsigned long only_main(unsigned long x) { calls_main++; return shared(x) ^ 3; }
TRACED unsigned long only_handler(unsigned long x) { calls_handler++; return shared(x) ^ 5; }
TRACED void jumper(int depth) {
  calls_jumper++;
  if (depth > 0) {
    jumper(depth - 1);
    __asm__ volatile("");
    return;
  }
  raise(SIGUSR1);
}

static void on_timer(int number) {
  (void)number;
  if (only_handler(11) != ((11ul * 31 + 7) ^ 5)) wrong = 1;
  ticks++;
}
static void on_usr1(int number) {
  (void)number;
  shared(1);
  siglongjmp(back, 1);
}

int main(int argc, char **argv) {
  int wanted = argc > 1 ? atoi(argv[1]) : 300;
  stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
  sigaltstack(&stack, NULL);
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_timer;
  action.sa_flags = SA_ONSTACK | SA_RESTART;
  sigaction(SIGALRM, &action, NULL);
  action.sa_handler = on_usr1;
  action.sa_flags = 0;
  sigaction(SIGUSR1, &action, NULL);
  struct itimerval timer = {{0, 1000}, {0, 1000}};
  setitimer(ITIMER_REAL, &timer, NULL);
  while (ticks < wanted)
    for (unsigned long i = 0; i < 1000; i++)
      if (only_main(i) != ((i * 31 + 7) ^ 3)) wrong = 1;
  struct itimerval off = {{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &off, NULL);
  volatile int jumps = 0;
  for (volatile int i = 0; i < 200; i++) {
    if (sigsetjmp(back, 1) == 0) jumper(i % 30);
    else jumps++;
  }
  printf("%s\njumps %d\n", wrong ? "wrong" : "ok", jumps);
  printf("only_main\t%lu\nshared\t%lu\nonly_handler\t%lu\njumper\t%lu\n", calls_main, calls_shared, calls_handler,
         calls_jumper);
  return wrong;
}
