/*
 * Children that call traced functions: by fork, vfork and exec, posix_spawn, system. Prints one line for each and
 * `name<TAB>calls` of the calls that this process itself made; the children print their own sums.
 *
 *   forks            all of them
 *   forks child N    what an executed child does
 *   forks orphan     leaves a child behind that calls on for half a second and then prints `orphan ok`
 */
#include "called.h"
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static unsigned long calls_step, calls_sum;

TRACED long step(long x) { calls_step++; return x * 3 + 1; }
TRACED long sum_steps(int n) {
  calls_sum++;
  long x = 1;
  for (int i = 0; i < n; i++) x = step(x) % 1000003;
  return x;
}

static int ended(pid_t pid) {
  int status;
  if (waitpid(pid, &status, 0) != pid) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

int main(int argc, char **argv) {
  if (argc > 2 && strcmp(argv[1], "child") == 0) {
    printf("child %ld\n", sum_steps(atoi(argv[2])));
    return 5;
  }
  if (argc > 1 && strcmp(argv[1], "orphan") == 0) {
    long first = sum_steps(1000);
    if (fork() == 0) {
      for (int i = 0; i < 100; i++) {
        if (sum_steps(1000) != first) { puts("orphan bad"); return 1; }
        usleep(5000);
      }
      puts("orphan ok");
      return 0;
    }
    printf("parent %ld\n", first);
    return 0;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("own %ld\n", sum_steps(1000));
  for (int i = 0; i < 20; i++) {
    pid_t pid = fork();
    if (pid == 0) _exit((int)(sum_steps(500 + i) % 200));
    long mine = sum_steps(500 + i) % 200;
    printf("fork %d %s\n", i, ended(pid) == mine ? "same" : "differs");
  }
  char *child[] = {argv[0], "child", "300", NULL};
  pid_t pid = vfork();
  if (pid == 0) {
    execv("/proc/self/exe", child);
    _exit(99);
  }
  printf("vfork %d\n", ended(pid));
  if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, child, environ) != 0) return 1;
  printf("spawn %d\n", ended(pid));
  printf("system %d\n", WEXITSTATUS(system("exit 6")));
  pid = fork();
  if (pid == 0) {
    sum_steps(100);
    abort();
  }
  printf("abort %d\n", ended(pid));
  printf("step\t%lu\nsum_steps\t%lu\n", calls_step, calls_sum);
  return 0;
}
