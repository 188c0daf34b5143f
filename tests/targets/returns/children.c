/*
 * Children made inside traced functions: fork deep down, where child and parent return through the same frames; in a
 * thread, in a child, in a handler; vfork with an exec and with _exit behind traced calls; posix_spawn, system and popen.
 */
#define _GNU_SOURCE
#define FUNCTIONS(X) X(forks) X(plain) X(works) X(vforks) X(execs) X(spawns) X(systems) X(grandchild) X(jumps)
#include "../rounds.h"
#include <pthread.h>
#include <setjmp.h>
#include <spawn.h>
#include <sys/wait.h>

static jmp_buf back;

TRACED unsigned plain(unsigned x) {
  ENTER(plain);
  unsigned y = mixed(x, 9);
  LEAVE(plain);
  return y;
}
TRACED int works(int depth) {
  ENTER(works);
  int below = depth == 0 ? (int)(plain(3) & 63) : works(depth - 1);
  USE(below);
  LEAVE(works);
  return below + 1;
}
TRACED int forks(int depth) {
  ENTER(forks);
  int pid = depth == 0 ? fork() : forks(depth - 1);
  USE(pid);
  LEAVE(forks);
  return pid;
}
TRACED void jumps(int depth) {
  ENTER(jumps);
  if (depth == 0) longjmp(back, 3);
  jumps(depth - 1);
  USE(depth);
  LEAVE(jumps);
}
static int status_of(int pid) {
  int status = -1;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}
TRACED int grandchild(int depth) {
  ENTER(grandchild);
  int pid = fork();
  int result = 0;
  if (pid == 0) result = depth == 0 ? works(4) : grandchild(depth - 1);
  if (pid == 0) _exit(result + 1);
  result = status_of(pid);
  LEAVE(grandchild);
  return result;
}
/* Ends in the child's only thread of execution: never returns there. */
TRACED void execs(const char *path, int depth) {
  ENTER(execs);
  if (depth > 0) execs(path, depth - 1);
  else if (path == NULL) _exit(21);
  else execl(path, path, "-c", "exit 5", (char *)NULL);
  USE(depth);
  LEAVE(execs);
}
TRACED int vforks(const char *path) {
  ENTER(vforks);
  int pid = vfork();
  if (pid == 0) {
    works(3);
    execs(path, 2);
    _exit(99);
  }
  int status = status_of(pid);
  LEAVE(vforks);
  return status;
}
extern char **environ;
TRACED int spawns(void) {
  ENTER(spawns);
  char *arguments[] = {"sh", "-c", "exit 7", NULL};
  pid_t pid;
  int status = posix_spawn(&pid, "/bin/sh", NULL, NULL, arguments, environ) ? -1 : status_of(pid);
  LEAVE(spawns);
  return status;
}
TRACED int systems(void) {
  ENTER(systems);
  int status = system("exit 6");
  char line[32] = "";
  FILE *pipe = popen("echo piped", "r");
  if (fgets(line, sizeof line, pipe) == NULL) status = -1;
  status += pclose(pipe) + (strcmp(line, "piped\n") == 0);
  LEAVE(systems);
  return status;
}
static void *in_thread(void *sum) {
  for (int i = 0; i < 5; i++) {
    int pid = forks(i);
    if (pid == 0) _exit(works(i) & 127);
    *(unsigned *)sum = mixed(*(unsigned *)sum, status_of(pid));
  }
  return NULL;
}

static void one_round(void) {
  unsigned sum = 0;
  fflush(stdout);
  for (int i = 0; i < 20; i++) {
    int pid = forks(i);
    if (pid == 0) {
      /* Calls, jumps and children of its own. */
      volatile int code = works(i);
      if (setjmp(back) == 0) jumps(i);
      else code += 2;
      _exit((code + works(2)) & 127);
    }
    sum = mixed(sum, status_of(pid));
  }
  printf("forked %u\n", sum);
  printf("grandchild %d\n", grandchild(4));
  for (int i = 0; i < 5; i++) printf("vforked %d %d\n", vforks("/bin/sh"), vforks(NULL));
  printf("spawned %d\n", spawns());
  printf("system %d\n", systems());
  unsigned sums[3] = {1, 2, 3};
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, in_thread, &sums[i]);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  printf("threads %u %u %u\n", sums[0], sums[1], sums[2]);
}
