/*
 * Signals on an alternate stack: handlers that call traced functions, handlers in handlers, siglongjmp out of them, faults,
 * and a storm of timer signals that meets the program in the middle of traced calls.
 */
#define _GNU_SOURCE
#define FUNCTIONS(X) X(handles) X(works) X(raises) X(jumps_out) X(faults)
#include "../rounds.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <ucontext.h>

static volatile unsigned long handled;
static sigjmp_buf back;

TRACED unsigned long works(unsigned long x) {
  ENTER(works);
  unsigned long y = x * 3 + 1;
  USE(y);
  LEAVE(works);
  return y;
}
TRACED unsigned long handles(int depth) {
  ENTER(handles);
  unsigned long below = depth == 0 ? works(7) : handles(depth - 1);
  USE(below);
  LEAVE(handles);
  return below + 1;
}
static void on_usr1(int number) {
  handled += handles(number % 7);
  if (handled % 2) raise(SIGUSR2);
}
static void on_usr2(int number) { handled += handles(number % 5) * 3; }
TRACED void jumps_out(int depth) {
  ENTER(jumps_out);
  if (depth == 0) siglongjmp(back, 9);
  jumps_out(depth - 1);
  USE(depth);
  LEAVE(jumps_out);
}
static void on_jump(int number) {
  handled += works(number);
  jumps_out(6);
}
TRACED unsigned long raises(int depth, int number) {
  ENTER(raises);
  unsigned long below = depth == 0 ? (unsigned long)raise(number) : raises(depth - 1, number);
  USE(below);
  LEAVE(raises);
  return below + 1;
}
static char *volatile nowhere;
TRACED int faults(int depth) {
  ENTER(faults);
  int below = depth == 0 ? *nowhere : faults(depth - 1);
  USE(below);
  LEAVE(faults);
  return below;
}
static volatile unsigned long ticks, ticked;
static void on_tick(int number) {
  (void)number;
  ticks++;
  ticked += handles(3) == works(7) + 4;
}

static void handle(int number, void (*handler)(int), int flags) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK | flags};
  sigaction(number, &action, NULL);
}

static void one_round(void) {
  static char stack[1 << 16];
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  sigaltstack(&alternate, NULL);
  handle(SIGUSR1, on_usr1, 0);
  handle(SIGUSR2, on_usr2, 0);
  handle(SIGWINCH, on_jump, 0);
  handle(SIGSEGV, on_jump, 0);
  handle(SIGALRM, on_tick, SA_RESTART);
  handled = 0;
  for (int i = 0; i < 100; i++) {
    raise(SIGUSR1);
    handled += raises(i % 10, SIGUSR1);
  }
  printf("handled %lu\n", handled);
  volatile int out = 0;
  for (volatile int i = 0; i < 100; i++) {
    if (sigsetjmp(back, 1) == 0) {
      if (i % 2) raises(i % 12, SIGWINCH);
      else faults(i % 12);
    } else out++;
    handled += works(i);
  }
  printf("out %d handled %lu\n", out, handled);
  /* How many signals come differs from round to round; that each was handled right does not. */
  ticks = ticked = 0;
  struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &often, NULL);
  unsigned long sum = 0;
  while (ticks < 300) sum |= works(5) ^ 16;
  setitimer(ITIMER_REAL, &never, NULL);
  printf("storm %lu wrong %lu\n", sum, ticks - ticked);
}
