/*
 * A thread that sits at the bottom of traced calls, one of them a tail call, for a debugger to look at. Prints `pid P`,
 * goes down at the first line of input and prints `sitting`, and comes back at the second: `back N`, and exits 0.
 */
#include "../called.h"
#include <stdio.h>
#include <unistd.h>

TRACED int bottom(int x) {
  char c;
  printf("sitting\n");
  fflush(stdout);
  int got = (int)read(0, &c, 1);
  USE(got);
  return got + x;
}
TRACED int tailing(int x) { return bottom(x + 1); }
TRACED int middle(int n) {
  int below = n == 0 ? tailing(n) : middle(n - 1);
  USE(below);
  return below + 1;
}
TRACED int top(int x) {
  int below = middle(x);
  USE(below);
  return below * 2;
}

int main(void) {
  char c;
  printf("pid %d\n", getpid());
  fflush(stdout);
  if (read(0, &c, 1) != 1) return 2;
  printf("back %d\n", top(3));
  return 0;
}
