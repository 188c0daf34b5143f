/*
 * Prints with snprintf's machine code through addresses that fault, with the fixups applied by a SIGSEGV handler as
 * the tracer would: for format.test.ts. Arguments: pid, code fd, code size, offset of the routine, then triples of
 * at, resume, clear.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

typedef int64_t (*snprintf_fn)(char *to, uint64_t size, const char *format, const uint64_t *data, uint64_t length);

static unsigned char *code;
static long fixups[64][3];
static int count, faults;

static void on_fault(int number, siginfo_t *info, void *context) {
  (void)info;
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  for (int i = 0; i < count; i++) {
    if ((unsigned char *)r[REG_RIP] != code + fixups[i][0]) continue;
    if (fixups[i][2] == 0) r[REG_RAX] = 0;
    else if (fixups[i][2] > 0) abort();
    r[REG_RIP] = (greg_t)(code + fixups[i][1]);
    faults++;
    return;
  }
  signal(number, SIG_DFL);
}

int main(int argc, char **argv) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%s/fd/%s", argv[1], argv[2]);
  code = mmap(NULL, strtoul(argv[3], NULL, 10), PROT_READ | PROT_EXEC, MAP_SHARED, open(path, O_RDONLY), 0);
  snprintf_fn print = (snprintf_fn)(code + atol(argv[4]));
  for (int i = 5; i + 2 < argc; i += 3, count++)
    for (int j = 0; j < 3; j++) fixups[count][j] = atol(argv[i + j]);
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
  sigaction(SIGSEGV, &action, NULL);

  char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(pages + 4096, 4096, PROT_NONE);
  char *edge = pages + 4096;
  memcpy(edge - 6, "inside", 6);
  memcpy(edge - 12, "whole", 6);
  char out[200];
  /* Runs into the hole; ends before it; is all in it; addresses that begin before it, and in it. */
  uint64_t data[] = {(uint64_t)(edge - 6), (uint64_t)(edge - 12), (uint64_t)(edge + 10),
                     (uint64_t)(edge - 2), (uint64_t)(edge - 8),  (uint64_t)edge};
  int64_t length = print(out, sizeof out, "<%s> <%s> <%5s> %pI4 %pI6 %pi6", data, sizeof data);
  printf("%d %d %s\n", (int)length, faults, out);
  return 0;
}
