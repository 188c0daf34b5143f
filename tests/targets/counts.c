/*
 * A deterministic, single-threaded program whose functions count their own calls. Prints one line for each
 * function, `name<TAB>calls`, then `checksum<TAB>value`, which a wrong register or argument would change.
 *
 *   counts [heavy-calls]      calls of `heavy` (default 110000)
 */
#include "called.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EACH(X)                                                                                                \
  X(heavy) X(leaf) X(empty) X(one_arg) X(six_args) X(nine_args) X(variadic_sum) X(float_args) X(mixed_args)     \
  X(returns_double) X(returns_pair) X(returns_big) X(struct_by_value) X(fibonacci) X(ackermann) X(is_even)      \
  X(is_odd) X(by_pointer) X(by_table_a) X(by_table_b) X(loops_at_start) X(switches) X(string_walk)              \
  X(big_frame) X(returns_long_double) X(tail_caller) X(tail_callee) X(reads_global) X(writes_through)           \
  X(compares) X(narrow_args) X(returns_bool)

#define INDEX(name) i_##name,
enum { EACH(INDEX) i_count };
#define NAME(name) #name,
static const char *const names[] = {EACH(NAME)};
static unsigned long calls[i_count];
#define CALLED(name) (calls[i_##name]++)

static unsigned long checksum = 1469598103934665603ul;
static void mix(unsigned long value) { checksum = (checksum ^ value) * 1099511628211ul; }
static void mix_double(double value) {
  unsigned long bits;
  memcpy(&bits, &value, sizeof bits);
  mix(bits);
}

struct pair { long first; double second; };
struct big { long word[6]; };

TRACED unsigned heavy(unsigned x) { CALLED(heavy); return x * 2654435761u + 1; }
TRACED int leaf(void) { CALLED(leaf); return 42; }
TRACED void empty(void) { CALLED(empty); }
TRACED long one_arg(long a) { CALLED(one_arg); return a ^ (a >> 3); }
TRACED long six_args(long a, long b, long c, long d, long e, long f) {
  CALLED(six_args);
  return a + 3 * b + 5 * c + 7 * d + 11 * e + 13 * f;
}
TRACED long nine_args(long a, long b, long c, long d, long e, long f, long g, long h, long i) {
  CALLED(nine_args);
  return a - b + c - d + e - f + g * 100 - h * 10 + i;
}
TRACED long variadic_sum(int n, ...) {
  CALLED(variadic_sum);
  va_list list;
  va_start(list, n);
  double sum = 0;
  for (int i = 0; i < n; i++) sum += i % 2 ? va_arg(list, double) : (double)va_arg(list, long);
  va_end(list);
  return (long)(sum * 4);
}
TRACED double float_args(double a, float b, double c, double d, double e, double f, double g, double h, double i) {
  CALLED(float_args);
  return a + b * 2 + c * 3 + d * 4 + e * 5 + f * 6 + g * 7 + h * 8 + i * 9;
}
TRACED double mixed_args(int a, double b, char c, float d, const char *e, short f, double g, long h, int i) {
  CALLED(mixed_args);
  return a + b + c + d + (e ? e[0] : 0) + f + g + h + i;
}
TRACED double returns_double(int n) { CALLED(returns_double); return n / 8.0; }
TRACED struct pair returns_pair(long n) {
  CALLED(returns_pair);
  struct pair result = {n * 3, (double)n / 4};
  return result;
}
TRACED struct big returns_big(long n) {
  CALLED(returns_big);
  struct big result;
  for (int i = 0; i < 6; i++) result.word[i] = n + i;
  return result;
}
TRACED long struct_by_value(struct big b, int i) { CALLED(struct_by_value); return b.word[i] + b.word[5]; }
TRACED unsigned fibonacci(unsigned n) {
  CALLED(fibonacci);
  if (n < 2) return n;
  unsigned a = fibonacci(n - 1);
  USE(a);
  unsigned b = fibonacci(n - 2);
  USE(b);
  return a + b;
}
TRACED unsigned ackermann(unsigned m, unsigned n) {
  CALLED(ackermann);
  if (m == 0) return n + 1;
  unsigned inner = 1;
  if (n > 0) inner = ackermann(m, n - 1);
  USE(inner);
  unsigned result = ackermann(m - 1, inner);
  USE(result);
  return result;
}
TRACED int is_odd(unsigned n);
TRACED int is_even(unsigned n) { CALLED(is_even); return n == 0 ? 1 : is_odd(n - 1); }
TRACED int is_odd(unsigned n) { CALLED(is_odd); return n == 0 ? 0 : is_even(n - 1); }
static TRACED int by_pointer(const void *a, const void *b) {
  CALLED(by_pointer);
  return *(const int *)a - *(const int *)b;
}
static TRACED long by_table_a(long n) { CALLED(by_table_a); return n + 17; }
static TRACED long by_table_b(long n) { CALLED(by_table_b); return n - 5; }
/* The loop's head is as near to the entry as a compiler puts it: a branch into the patched bytes must be seen. */
TRACED unsigned loops_at_start(unsigned *cell, unsigned n) {
  do *cell += n; while (--n);
  CALLED(loops_at_start);
  return *cell;
}
TRACED int switches(int n) {
  switch (n) {
  case 0: CALLED(switches); return 10;
  case 1: CALLED(switches); return 7;
  case 2: CALLED(switches); return leaf();
  case 3: CALLED(switches); return -1;
  case 4: CALLED(switches); return (int)one_arg(n);
  case 5: CALLED(switches); return 99;
  default: CALLED(switches); return 0;
  }
}
TRACED size_t string_walk(const char *s) {
  const char *p = s;
  while (*p) p++;
  CALLED(string_walk);
  return (size_t)(p - s);
}
TRACED int big_frame(int seed) {
  CALLED(big_frame);
  volatile unsigned char frame[20000];
  for (unsigned i = 0; i < sizeof frame; i += 100) frame[i] = (unsigned char)(seed + i);
  return frame[100] + frame[19900];
}
TRACED long double returns_long_double(long n) { CALLED(returns_long_double); return (long double)n / 3; }
TRACED long tail_callee(long n) { CALLED(tail_callee); return n * 9; }
TRACED long tail_caller(long n) { CALLED(tail_caller); return tail_callee(n + 1); }
static volatile int global_cell = 5;
TRACED int reads_global(void) { CALLED(reads_global); return global_cell; }
TRACED void writes_through(long *to, long value) { *to = value; CALLED(writes_through); }
TRACED int compares(long a, long b) { CALLED(compares); return a < b ? -1 : a > b; }
TRACED int narrow_args(signed char a, unsigned short b, _Bool c) { CALLED(narrow_args); return a + b + c; }
TRACED _Bool returns_bool(long n) { CALLED(returns_bool); return n % 3 == 0; }

int main(int argc, char **argv) {
  unsigned n_heavy = argc > 1 ? (unsigned)atoi(argv[1]) : 110000;
  unsigned x = 1;
  for (unsigned i = 0; i < n_heavy; i++) x = heavy(x);
  mix(x);
  for (int i = 0; i < 1001; i++) mix((unsigned long)leaf());
  for (int i = 0; i < 733; i++) empty();
  for (long i = 0; i < 512; i++) mix((unsigned long)one_arg(i * 77));
  for (long i = 0; i < 300; i++) mix((unsigned long)six_args(i, 2, 3, i * 4, 5, -6));
  for (long i = 0; i < 211; i++) mix((unsigned long)nine_args(1, i, 3, i * 4, 5, -6, 7, i, 9));
  for (long i = 0; i < 199; i++) mix((unsigned long)variadic_sum(6, i, 1.5, 3L, i * 0.25, 5L, 6.75));
  for (int i = 0; i < 157; i++) mix_double(float_args(i, 0.5f, 1, 2, 3, i * 4, 5, 6, 7));
  for (int i = 0; i < 151; i++) mix_double(mixed_args(i, 1.5, 'c', 2.25f, "eee", -3, 4.5, 5, 6));
  for (int i = 0; i < 149; i++) mix_double(returns_double(i));
  for (long i = 0; i < 139; i++) {
    struct pair p = returns_pair(i);
    mix((unsigned long)p.first);
    mix_double(p.second);
  }
  for (long i = 0; i < 137; i++) mix((unsigned long)struct_by_value(returns_big(i), (int)(i % 6)));
  mix(fibonacci(17));
  mix(ackermann(2, 7));
  for (unsigned i = 0; i < 40; i++) mix((unsigned long)is_even(i));
  int numbers[500];
  for (int i = 0; i < 500; i++) numbers[i] = (i * 7919) % 1009;
  qsort(numbers, 500, sizeof numbers[0], by_pointer);
  for (int i = 0; i < 500; i++) mix((unsigned long)numbers[i]);
  static long (*const volatile table[])(long) = {by_table_a, by_table_b};
  for (long i = 0; i < 99; i++) mix((unsigned long)table[i % 3 == 0](i));
  unsigned cell = 0;
  for (unsigned i = 1; i < 60; i++) mix(loops_at_start(&cell, i));
  for (int i = 0; i < 70; i++) mix((unsigned long)switches(i % 7));
  for (int i = 0; i < 81; i++) mix(string_walk(&"the quick brown fox"[i % 19]));
  for (int i = 0; i < 29; i++) mix((unsigned long)big_frame(i));
  for (long i = 0; i < 83; i++) mix_double((double)returns_long_double(i));
  for (long i = 0; i < 87; i++) mix((unsigned long)tail_caller(i));
  for (int i = 0; i < 91; i++) mix((unsigned long)(global_cell = reads_global() * 3 % 1000));
  long written = 0;
  for (long i = 0; i < 93; i++) { writes_through(&written, i * i); mix((unsigned long)written); }
  for (long i = 0; i < 95; i++) mix((unsigned long)compares(i * 37 % 50, 25));
  for (int i = 0; i < 97; i++) mix((unsigned long)narrow_args((signed char)-i, (unsigned short)(60000 + i), i & 1));
  for (long i = 0; i < 103; i++) mix(returns_bool(i));

  for (int i = 0; i < i_count; i++) printf("%s\t%lu\n", names[i], calls[i]);
  printf("checksum\t%lx\n", checksum);
  return 0;
}
