/*
 * Tail calls between traced functions: a chain of three, through a pointer, with arguments on the stack, into a function
 * that throws nothing away; and two that go on in one another a million times on one frame. Where the compiler makes
 * calls of them (-O0) the million are ten thousand.
 */
#define FUNCTIONS(X) X(first) X(second) X(third) X(pointed) X(even) X(odd) X(many) X(more) X(plain)
#include "../rounds.h"

#ifdef __OPTIMIZE__
enum { TURNS = 1000000 };
#else
enum { TURNS = 10000 };
#endif

TRACED unsigned plain(unsigned x) {
  ENTER(plain);
  unsigned y = mixed(x, 1);
  LEAVE(plain);
  return y;
}
TRACED unsigned third(unsigned x) {
  ENTER(third);
  unsigned y = plain(x) + 3;
  LEAVE(third);
  return y;
}
TRACED unsigned second(unsigned x) {
  ENTER(second);
  LEAVE(second);
  return third(x + 2);
}
TRACED unsigned first(unsigned x) {
  ENTER(first);
  unsigned y = plain(x);
  LEAVE(first);
  return second(y);
}
static unsigned (*volatile pointer)(unsigned) = first;
TRACED unsigned pointed(unsigned x) {
  ENTER(pointed);
  LEAVE(pointed);
  return pointer(x + 1);
}
TRACED unsigned odd(unsigned n, unsigned sum);
TRACED unsigned even(unsigned n, unsigned sum) {
  ENTER(even);
  LEAVE(even);
  return n == 0 ? sum : odd(n - 1, sum * 3 + n);
}
TRACED unsigned odd(unsigned n, unsigned sum) {
  ENTER(odd);
  LEAVE(odd);
  return n == 0 ? sum : even(n - 1, sum * 5 + n);
}
TRACED long more(long a, long b, long c, long d, long e, long f, long g, long h) {
  ENTER(more);
  long sum = a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h;
  LEAVE(more);
  return sum;
}
TRACED long many(long a, long b, long c, long d, long e, long f, long g, long h) {
  ENTER(many);
  LEAVE(many);
  return more(h, g, f, e, d, c, b, a);
}

static void one_round(void) {
  unsigned sum = 0;
  for (unsigned i = 0; i < 1000; i++) sum = mixed(sum, first(i) + second(i) + pointed(i));
  printf("chains %u\n", sum);
  printf("many %ld\n", many(1, 2, 3, 4, 5, 6, 7, 8));
  printf("turns %u\n", even(TURNS, 1));
}
