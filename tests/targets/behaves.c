/*
 * Does what its first argument says, so that a test can see whether tracing changes it.
 *
 *   exit N          exits with status N
 *   kill N          dies of signal N
 *   cat             copies standard input to standard output, then `bytes N` to standard error
 *   environment     prints its environment, arguments and working directory
 *   terminal        says which standard streams are terminals, its process group's place, and the window's size
 *   descriptors     lists its open file descriptors, blocking state, signal mask and ignored signals
 *   wait            prints `ready P` and calls its function until a signal ends it
 *   patient         the same, but SIGINT makes it print `interrupted N` and exit 9
 *   echo            answers each line of standard input with `> line`, at once
 */
#define _GNU_SOURCE
#include "called.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

extern char **environ;
static volatile sig_atomic_t interrupted;

static volatile long ticks;

TRACED long tick(long x) { ticks++; return x * 7 + 1; }
static void on_interrupt(int number) { (void)number; interrupted = 1; }

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  int n = argc > 2 ? atoi(argv[2]) : 0;
  for (int i = 0; i < 25; i++) tick(i);
  if (strcmp(what, "exit") == 0) return n;
  if (strcmp(what, "kill") == 0) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    signal(n, SIG_DFL);
    kill(getpid(), n);
    return 99;
  }
  if (strcmp(what, "cat") == 0) {
    char block[65536];
    long total = 0, got;
    while ((got = read(0, block, sizeof block)) > 0) {
      tick(got);
      for (long at = 0, put; at < got; at += put)
        if ((put = write(1, block + at, (size_t)(got - at))) < 0) { perror("write"); return 1; }
      total += got;
    }
    fprintf(stderr, "bytes %ld\n", total);
    return got < 0;
  }
  if (strcmp(what, "environment") == 0) {
    for (int i = 1; i < argc; i++) printf("argument [%s]\n", argv[i]);
    for (char **e = environ; *e; e++) printf("%s\n", *e);
    char folder[4096];
    printf("folder %s\n", getcwd(folder, sizeof folder));
    return 0;
  }
  if (strcmp(what, "terminal") == 0) {
    struct winsize size = {0};
    ioctl(0, TIOCGWINSZ, &size);
    printf("terminals %d%d%d foreground %d size %dx%d\n", isatty(0), isatty(1), isatty(2),
           tcgetpgrp(0) == getpgrp(), size.ws_col, size.ws_row);
    return 0;
  }
  if (strcmp(what, "descriptors") == 0) {
    for (int fd = 0; fd < 64; fd++) {
      int flags = fcntl(fd, F_GETFL);
      if (flags >= 0) printf("descriptor %d %s\n", fd, flags & O_NONBLOCK ? "nonblocking" : "blocking");
    }
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    for (int s = 1; s < 65; s++) {
      struct sigaction action;
      if (sigismember(&mask, s) == 1) printf("signal %d blocked\n", s);
      if (sigaction(s, NULL, &action) == 0 && action.sa_handler == SIG_IGN) printf("signal %d ignored\n", s);
    }
    return 0;
  }
  if (strcmp(what, "wait") == 0 || strcmp(what, "patient") == 0) {
    if (what[0] == 'p') signal(SIGINT, on_interrupt);
    printf("ready %d\n", getpid());
    fflush(stdout);
    long x = 0;
    while (!interrupted) {
      x = tick(x);
      usleep(1000);
    }
    printf("interrupted %d\n", (int)interrupted);
    return 9;
  }
  if (strcmp(what, "echo") == 0) {
    char line[4096];
    while (fgets(line, sizeof line, stdin)) {
      tick(1);
      printf("> %s", line);
      fflush(stdout);
    }
    return 0;
  }
  return 98;
}
