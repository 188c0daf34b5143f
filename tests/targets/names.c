/*
 * Several names for one function, and functions of libc that are chosen when the program starts (IFUNC). Each line
 * says how often `real_name` (also `first_alias`, `second_alias`) and libc's functions were called from here.
 */
#include "called.h"
#include <stdio.h>
#include <string.h>

static volatile int calls;

/* Long enough to be patched wherever the linker puts it. */
TRACED int real_name(int x) { calls++; return x * 3; }
int first_alias(int x) __attribute__((alias("real_name")));
int second_alias(int x) __attribute__((weak, alias("real_name")));

int main(void) {
  volatile int x = 1;
  for (int i = 0; i < 11; i++) x = real_name(x) % 1000;
  for (int i = 0; i < 13; i++) x = first_alias(x) % 1000;
  for (int i = 0; i < 17; i++) x = second_alias(x) % 1000;
  /* Through pointers that the compiler can't see through, so that these are calls. */
  size_t (*volatile length)(const char *) = strlen;
  char *(*volatile find)(const char *, int) = strchr;
  void *(*volatile copy)(void *, const void *, size_t) = memcpy;
  char text[64] = "some text", other[64];
  size_t sum = 0;
  for (int i = 0; i < 5000; i++) sum += length(text + i % 9);
  for (int i = 0; i < 6000; i++) sum += find(text, 't') != NULL;
  for (int i = 0; i < 7000; i++) { copy(other, text, 10); sum += (size_t)other[i % 9]; }
  printf("x %d sum %zu\nreal_name\t41\nstrlen\t5000\nstrchr\t6000\nmemcpy\t7000\n", x, sum);
  return 0;
}
