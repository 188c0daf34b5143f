/*
 * Functions that call what returns twice: setjmp, sigsetjmp, getcontext, vfork, and a setjmp of its own. They return once,
 * and are traced.
 */
#define _GNU_SOURCE
#define FUNCTIONS(X) X(sets) X(saves) X(contexts) X(vforks) X(plain) X(keeps)
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

/* As setjmp and longjmp are, under names that say nothing. */
int keep_place(void *place[8]) __attribute__((returns_twice));
void go_to_place(void *place[8], int value) __attribute__((noreturn));
__asm__(".text\n.globl keep_place\n.type keep_place, @function\nkeep_place:\n"
        "mov %rbx, (%rdi)\nmov %rbp, 8(%rdi)\nmov %r12, 16(%rdi)\nmov %r13, 24(%rdi)\nmov %r14, 32(%rdi)\n"
        "mov %r15, 40(%rdi)\nlea 8(%rsp), %rdx\nmov %rdx, 48(%rdi)\nmov (%rsp), %rdx\nmov %rdx, 56(%rdi)\n"
        "xor %eax, %eax\nret\n.size keep_place, . - keep_place\n"
        ".globl go_to_place\n.type go_to_place, @function\ngo_to_place:\n"
        "mov (%rdi), %rbx\nmov 8(%rdi), %rbp\nmov 16(%rdi), %r12\nmov 24(%rdi), %r13\nmov 32(%rdi), %r14\n"
        "mov 40(%rdi), %r15\nmov 48(%rdi), %rsp\nmov %esi, %eax\njmp *56(%rdi)\n"
        ".size go_to_place, . - go_to_place\n");
TRACED unsigned keeps(unsigned times) {
  ENTER(keeps);
  void *here[8];
  volatile unsigned sum = 0, left = times;
  sum = plain(sum + keep_place(here));
  if (left-- > 0) go_to_place(here, left + 1);
  LEAVE(keeps);
  return sum;
}

static void one_round(void) {
  unsigned sum = 0;
  for (int i = 0; i < 20; i++) sum = mixed(sum, sets(i) + saves(i) + contexts(i) + vforks(i) + keeps(i));
  printf("twice %u\n", sum);
}
