/*
 * Functions that call what returns twice: setjmp, sigsetjmp, getcontext, vfork. They return once, and are traced.
 */
#define _GNU_SOURCE
#define FUNCTIONS(X) X(sets) X(saves) X(contexts) X(vforks) X(plain)
#include "../rounds.h"
#include <setjmp.h>
#include <sys/wait.h>
#include <ucontext.h>

TRACED unsigned plain(unsigned x) {
  ENTER(plain);
  unsigned y = mixed(x, 11);
  LEAVE(plain);
  return y;
}
TRACED unsigned sets(unsigned times) {
  ENTER(sets);
  jmp_buf here;
  volatile unsigned sum = 0, left = times;
  sum = plain(sum + setjmp(here));
  if (left-- > 0) longjmp(here, left + 1);
  LEAVE(sets);
  return sum;
}
TRACED unsigned saves(unsigned times) {
  ENTER(saves);
  sigjmp_buf here;
  volatile unsigned sum = 0, left = times;
  sum = plain(sum + sigsetjmp(here, 1));
  if (left-- > 0) siglongjmp(here, left + 1);
  LEAVE(saves);
  return sum;
}
TRACED unsigned contexts(unsigned times) {
  ENTER(contexts);
  ucontext_t here;
  volatile unsigned sum = 0, left = times;
  getcontext(&here);
  sum = plain(sum);
  if (left-- > 0) setcontext(&here);
  LEAVE(contexts);
  return sum;
}
TRACED int vforks(int code) {
  ENTER(vforks);
  int pid = vfork(), status;
  if (pid == 0) _exit((int)plain(code) & 63);
  waitpid(pid, &status, 0);
  LEAVE(vforks);
  return WEXITSTATUS(status);
}

static void one_round(void) {
  unsigned sum = 0;
  for (int i = 0; i < 20; i++) sum = mixed(sum, sets(i) + saves(i) + contexts(i) + vforks(i));
  printf("twice %u\n", sum);
}
