/*
 * longjmp and siglongjmp out of traced frames: from any depth, over tail calls, with the mask of signals, back and forth
 * in one function, past alloca; gcc's own __builtin_longjmp; and what runs on the stack that was left.
 */
#define FUNCTIONS(X) X(deep) X(target) X(plain) X(tail) X(masked) X(again) X(wide) X(built) X(bottom)
#include "../rounds.h"
#include <alloca.h>
#include <setjmp.h>
#include <signal.h>

static jmp_buf back;
static sigjmp_buf masked_back;
static void *built_back[5];

TRACED unsigned plain(unsigned x) {
  ENTER(plain);
  unsigned y = mixed(x, 5);
  LEAVE(plain);
  return y;
}
TRACED int bottom(int value) {
  ENTER(bottom);
  if (value != 0) longjmp(back, value);
  LEAVE(bottom);
  return 9;
}
TRACED int tail(int value) {
  ENTER(tail);
  if (value == 0) LEAVE(tail);
  return bottom(value);
}
TRACED int deep(int depth, int value) {
  ENTER(deep);
  int below = depth == 0 ? bottom(value) : deep(depth - 1, value);
  USE(below);
  LEAVE(deep);
  return below + 1;
}
TRACED int wide(int n) {
  ENTER(wide);
  volatile char *room = (volatile char *)alloca(n + 1);
  room[n] = 1;
  int below = deep(n % 7, n);
  USE(below);
  LEAVE(wide);
  return below + room[n];
}
/* The function that setjmp returns to is traced: it returns once, however often setjmp does in it. */
TRACED int target(int times) {
  ENTER(target);
  volatile int left = times;
  volatile unsigned sum = 0;
  int got = setjmp(back);
  sum = plain(sum + got);
  if (left > 0) {
    left--;
    deep(left % 9, left + 1);
  }
  LEAVE(target);
  return sum & 0xffff;
}
TRACED int masked(int depth) {
  ENTER(masked);
  if (depth == 0) siglongjmp(masked_back, 7);
  int below = masked(depth - 1);
  USE(below);
  LEAVE(masked);
  return below;
}
/* Jumps to itself in a loop that has traced calls in it. */
TRACED unsigned again(unsigned rounds) {
  ENTER(again);
  jmp_buf here;
  volatile unsigned left = rounds, sum = 0;
  if (setjmp(here) == 0) sum = 1;
  sum = plain(sum);
  if (left-- > 0) longjmp(here, 1);
  LEAVE(again);
  return sum;
}
TRACED int built(int depth) {
  ENTER(built);
  if (depth == 0) __builtin_longjmp(built_back, 1);
  int below = built(depth - 1);
  USE(below);
  LEAVE(built);
  return below;
}

static void one_round(void) {
  volatile unsigned sum = 0;
  for (volatile int i = 0; i < 300; i++) {
    int got = setjmp(back);
    if (got == 0) sum = mixed(sum, i % 3 == 0 ? tail(i) : i % 3 == 1 ? deep(i % 50, i) : wide(i));
    else sum = plain(sum + got);
  }
  printf("jumped %u\n", sum);
  for (volatile int i = 0; i < 50; i++) sum = mixed(sum, target(i));
  printf("targets %u\n", sum);
  sigset_t one, now;
  sigemptyset(&one);
  sigaddset(&one, SIGUSR1);
  volatile int blocked = 0;
  for (volatile int i = 0; i < 50; i++) {
    if (sigsetjmp(masked_back, 1) == 0) {
      sigprocmask(SIG_BLOCK, &one, NULL);
      masked(i);
    }
    sigprocmask(SIG_BLOCK, NULL, &now);
    blocked += sigismember(&now, SIGUSR1);
  }
  printf("masked %d\n", blocked);
  printf("again %u\n", again(500));
  volatile int builts = 0;
  for (volatile int i = 0; i < 40; i++) {
    if (__builtin_setjmp(built_back) == 0) built(i + 1);
    else builts++;
  }
  printf("built %d\n", builts);
}
