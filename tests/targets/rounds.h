/*
 * What the programs of tests/targets/returns share. Each works twice, told by a line of standard input each time: for
 * the first round it is traced, for the second it was let go of. A round prints what it computed, the same every time,
 * and `name<TAB>entered<TAB>returned` for each function of `FUNCTIONS`; then `round over`.
 *
 * The counts are in memory that forked children share, and are raised by the functions themselves.
 */
#ifndef ROUNDS_H
#define ROUNDS_H

#include "called.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct count {
  unsigned long entered, returned;
};
#define NUMBER(name) n_##name,
enum { FUNCTIONS(NUMBER) COUNTED };
#define NAME(name) #name,
static const char *const names[] = {FUNCTIONS(NAME)};
static struct count *counts;

#define ENTER(name) __atomic_add_fetch(&counts[n_##name].entered, 1, __ATOMIC_RELAXED)
/* Last before the function returns, or goes on by a tail call. */
#define LEAVE(name) __atomic_add_fetch(&counts[n_##name].returned, 1, __ATOMIC_RELAXED)

static void one_round(void);

static void wait_for_line(void) {
  char c;
  while (read(0, &c, 1) == 1 && c != '\n') {
  }
}

/* A 32-bit checksum of whatever a round computes. */
__attribute__((unused)) static unsigned mixed(unsigned sum, unsigned long with) {
  return (sum ^ (unsigned)with) * 2654435761u + 12345u;
}

int main(void) {
  counts = (struct count *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  printf("pid %d\n", getpid());
  for (int round = 0; round < 2; round++) {
    fflush(stdout);
    wait_for_line();
    memset(counts, 0, 4096);
    one_round();
    for (int i = 0; i < COUNTED; i++) printf("%s\t%lu\t%lu\n", names[i], counts[i].entered, counts[i].returned);
    printf("round over\n");
  }
  return 0;
}

#endif
