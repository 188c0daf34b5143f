/*
 * Calls under way on several stacks in turns: swapcontext, and a switch of stacks by hand as coroutine libraries have it;
 * coroutines inside coroutines, given up half-way with their stacks unmapped, and begun by one thread and ended by another.
 */
#define _GNU_SOURCE
#define FUNCTIONS(X) X(yields) X(climbs) X(plain) X(resumes) X(within) X(given_up)
#include "../rounds.h"
#include <pthread.h>
#include <ucontext.h>

enum { STACK = 1 << 16, COROUTINES = 6 };

static void *new_stack(void) {
  return mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
}

TRACED unsigned long plain(unsigned long x) {
  ENTER(plain);
  unsigned long y = x * 31 + 3;
  LEAVE(plain);
  return y;
}

static ucontext_t home, contexts[COROUTINES];
static unsigned long yielded;
TRACED unsigned long yields(int me, int depth) {
  ENTER(yields);
  unsigned long below = depth == 0 ? plain(me) : yields(me, depth - 1);
  USE(below);
  swapcontext(&contexts[me], &home);
  LEAVE(yields);
  return below * 2 + depth;
}
static void coroutine(int me) { yielded += yields(me, 10); }

/* By hand: what is callee-saved goes onto the one stack and comes from the other. */
struct fiber {
  void *sp;
  void *stack;
  struct fiber *caller;
  unsigned long result;
  int over;
};
void switch_stacks(void **save, void *to);
__asm__(".text\n.type switch_stacks, @function\nswitch_stacks:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.size switch_stacks, . - switch_stacks\n");

static __thread struct fiber *running, outside;
static void __attribute__((noinline)) yield(void) {
  struct fiber *me = running;
  running = me->caller;
  switch_stacks(&me->sp, running->sp);
}
TRACED void resumes(struct fiber *fiber) {
  ENTER(resumes);
  struct fiber *me = running == NULL ? &outside : running;
  fiber->caller = me;
  running = fiber;
  switch_stacks(&me->sp, fiber->sp);
  LEAVE(resumes);
}
TRACED unsigned long climbs(int depth) {
  ENTER(climbs);
  unsigned long below = depth == 0 ? plain(1) : climbs(depth - 1);
  USE(below);
  yield();
  LEAVE(climbs);
  return below * 3 + depth;
}
static void begin(void) {
  struct fiber *me = running;
  me->result = climbs(8);
  me->over = 1;
  yield();
}
/* A coroutine in a coroutine. */
TRACED unsigned long within(void);
static void begin_within(void) {
  struct fiber *me = running;
  me->result = within();
  me->over = 1;
  yield();
}
static void *top_of(struct fiber *fiber, void (*start)(void)) {
  void **sp = (void **)((char *)fiber->stack + STACK);
  *--sp = NULL;
  *--sp = (void *)start;
  return sp - 6;
}
static void make(struct fiber *fiber, void (*start)(void)) {
  *fiber = (struct fiber){.stack = new_stack()};
  fiber->sp = top_of(fiber, start);
}
TRACED unsigned long within(void) {
  ENTER(within);
  struct fiber inner;
  make(&inner, begin);
  while (!inner.over) {
    resumes(&inner);
    plain(2);
    yield();
  }
  munmap(inner.stack, STACK);
  unsigned long result = inner.result + 1;
  LEAVE(within);
  return result;
}
/* Never comes back: its stack is taken away under it. */
TRACED unsigned long given_up(int depth) {
  ENTER(given_up);
  unsigned long below = depth == 0 ? 1 : given_up(depth - 1);
  if (depth == 0) for (;;) yield();
  USE(below);
  LEAVE(given_up);
  return below;
}
static void begin_given_up(void) {
  given_up(12);
}

static void *finishes(void *fiber) {
  while (!((struct fiber *)fiber)->over) resumes(fiber);
  return NULL;
}

static void one_round(void) {
  yielded = 0;
  for (int i = 0; i < COROUTINES; i++) {
    getcontext(&contexts[i]);
    contexts[i].uc_stack.ss_sp = new_stack();
    contexts[i].uc_stack.ss_size = STACK;
    contexts[i].uc_link = &home;
    makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
  }
  for (int turn = 0; turn < 12; turn++)
    for (int i = 0; i < COROUTINES; i++) swapcontext(&home, &contexts[i]);
  for (int i = 0; i < COROUTINES; i++) munmap(contexts[i].uc_stack.ss_sp, STACK);
  printf("yielded %lu\n", yielded);

  struct fiber fibers[COROUTINES];
  unsigned long sum = 0;
  for (int i = 0; i < COROUTINES; i++) make(&fibers[i], i % 2 ? begin : begin_within);
  for (int left = COROUTINES; left > 0;)
    for (int i = 0; i < COROUTINES; i++) {
      if (fibers[i].over) continue;
      resumes(&fibers[i]);
      if (!fibers[i].over) continue;
      sum += fibers[i].result;
      munmap(fibers[i].stack, STACK);
      left--;
    }
  printf("by hand %lu\n", sum);

  for (int i = 0; i < 20; i++) {
    struct fiber lost;
    make(&lost, begin_given_up);
    for (int k = 0; k < 3; k++) resumes(&lost);
    munmap(lost.stack, STACK);
  }
  for (int i = 0; i < 10; i++) {
    struct fiber moved;
    make(&moved, begin);
    for (int k = 0; k < 4; k++) resumes(&moved);
    pthread_t thread;
    pthread_create(&thread, NULL, finishes, &moved);
    pthread_join(thread, NULL);
    sum += moved.result;
    munmap(moved.stack, STACK);
  }
  printf("moved %lu\n", sum);
}
