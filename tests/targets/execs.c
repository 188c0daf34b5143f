/*
 * Becomes another program, several times over: execs itself with one less until none is left, then prints.
 *
 *   execs N        N execs of itself, calling its functions before each
 *   execs N echo   the same, and then becomes /bin/echo
 */
#include "called.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static volatile int calls;

TRACED int before(int n) { calls++; return n * 2 + 1; }

int main(int argc, char **argv) {
  int n = argc > 1 ? atoi(argv[1]) : 0;
  int x = 0;
  for (int i = 0; i < 10; i++) x += before(i);
  if (n > 0) {
    char less[12];
    snprintf(less, sizeof less, "%d", n - 1);
    execl("/proc/self/exe", argv[0], less, argc > 2 ? argv[2] : (char *)NULL, (char *)NULL);
    return 99;
  }
  if (argc > 2) {
    execl("/bin/echo", "echo", "echoed", (char *)NULL);
    return 98;
  }
  printf("last %d\n", x);
  return 4;
}
