/*
 * Timer signals that meet the program anywhere, in the middle of a trampoline too: handlers that walk the stack, that
 * throw and catch, and that jump out with siglongjmp; threads that are cancelled wherever they are. How often each
 * function passes differs from round to round; what it computes does not.
 */
#define FUNCTIONS(X) X(works) X(climbs) X(throws) X(left)
#include "../rounds.h"
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

static sigjmp_buf back;
static volatile sig_atomic_t may_jump, jumped, frames, caught;

extern "C" {
TRACED unsigned works(unsigned x) {
  ENTER(works);
  unsigned y = x * 3 + 1;
  USE(y);
  LEAVE(works);
  return y;
}
TRACED unsigned climbs(unsigned depth) {
  ENTER(climbs);
  unsigned below = depth == 0 ? works(7) : climbs(depth - 1);
  USE(below);
  LEAVE(climbs);
  return below + 1;
}
TRACED int throws(int depth) {
  ENTER(throws);
  if (depth == 0) throw 5;
  int below = throws(depth - 1);
  USE(below);
  LEAVE(throws);
  return below;
}
/* Cancelled in the middle of whatever it does. */
TRACED void left(void) {
  ENTER(left);
  for (;;) works(1);
}
}

enum { WALK, THROW, JUMP };
static volatile sig_atomic_t mode;
static void on_tick(int) {
  if (mode == WALK) {
    void *found[32];
    frames = frames + (backtrace(found, 32) > 0);
  } else if (mode == THROW) {
    try {
      throws(3);
    } catch (int value) {
      caught = caught + (value == 5);
    }
  } else if (may_jump) {
    may_jump = 0;
    siglongjmp(back, 1);
  }
}

static void ticking(int microseconds) {
  struct itimerval timer = {{0, microseconds}, {0, microseconds}};
  setitimer(ITIMER_REAL, &timer, NULL);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static void *in_left(void *) {
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
  left();
  return NULL;
}

static void one_round(void) {
  static char stack[1 << 16];
  stack_t alternate = {};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, NULL);
  struct sigaction action = {};
  action.sa_handler = on_tick;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigaction(SIGALRM, &action, NULL);
  void *found[4];
  backtrace(found, 4);
  static unsigned wrong;
  wrong = 0;
  for (int turn = WALK; turn <= THROW; turn++) {
    mode = turn;
    ticking(300);
    for (double end = now() + 0.15; now() < end;)
      for (int i = 0; i < 100; i++) wrong += climbs(i % 9) != 22 + i % 9 + 1;
    ticking(0);
  }
  mode = JUMP;
  jumped = 0;
  ticking(300);
  double end = now() + 0.15;
  while (now() < end) {
    if (sigsetjmp(back, 1) == 0) {
      may_jump = 1;
      for (int i = 0; i < 1000; i++) wrong += climbs(i % 9) != 22 + i % 9 + 1;
      may_jump = 0;
    } else jumped = jumped + 1;
    wrong += climbs(4) != 27;
  }
  ticking(0);
  printf("walked %d caught %d jumped %d wrong %u\n", frames > 0, caught > 0, jumped > 0, wrong);
  for (int i = 0; i < 60; i++) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, in_left, NULL);
    struct timespec moment = {0, (i * 7919) % 500000};
    nanosleep(&moment, NULL);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    wrong += result != PTHREAD_CANCELED;
  }
  printf("cancelled, wrong %u\n", wrong);
}
