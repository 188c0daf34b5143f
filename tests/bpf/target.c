/*
 * The program that the BPF programs of this folder are attached to: functions of many signatures, called so often and
 * with such arguments as the tests expect. `target calls` (the default) or `target threads`.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define NOINLINE __attribute__((noinline, noclone, noipa))

struct inner {
  int pad[4];
  int answer;
};
struct middle {
  char name[8];
  struct inner *inner;
};
struct outer {
  long id;
  struct middle *middle;
};

volatile long sink;
/* Bounds that the compiler can't see: a loop that it unrolls calls from many places. */
volatile int five = 5, three = 3;

NOINLINE int add2(int a, int b) {
  sink++;
  return a + b;
}

NOINLINE long six(long a, long b, long c, long d, long e, long f) {
  sink++;
  return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f;
}

NOINLINE int greet(const char *name) {
  sink++;
  return (int)strlen(name);
}

/* Never reads what it is given: the programs do, and some of it is bad. */
NOINLINE int take_pointer(const void *pointer) {
  sink++;
  return pointer != 0;
}

/* Nor this one. */
NOINLINE int parse(const char *text) {
  sink++;
  return text[0];
}

NOINLINE long read_outer(const struct outer *outer) {
  sink++;
  return outer->middle->inner->answer;
}

NOINLINE int negative(int n) {
  sink++;
  return -n;
}

NOINLINE int leaf(int n) {
  sink++;
  return n + 1;
}
NOINLINE int caller_one(int n) {
  int got = leaf(n);
  sink++;
  return got;
}
NOINLINE int caller_two(int n) {
  int got = leaf(n);
  sink++;
  return got + 1;
}

NOINLINE long tick(long thread, long i) {
  sink++;
  return thread + i;
}

NOINLINE int maybe(int n) {
  sink++;
  return n;
}

static void *ticks(void *arg) {
  for (long i = 0; i < 10000; i++) tick((long)arg, i);
  return 0;
}

static void calls(void) {
  for (int i = 0; i < 100; i++) add2(i, 2 * i);
  six(1, 2, 3, 4, 5, 6);
  greet("world");
  greet("multitrace");
  greet("a name that is longer than thirty-two characters");
  parse("42");
  parse("-17 rest");
  parse(" 0x1F,");
  parse("99999999999999999999");
  parse("none");
  parse("-9223372036854775808");
  take_pointer("good");
  take_pointer(0);
  take_pointer((void *)8);
  take_pointer((void *)0x00007ffffffff000);
  take_pointer((void *)0xdead000000000000);
  for (int i = 0; i < 10; i++) {
    struct inner inner = {.answer = 40 + i};
    struct middle middle = {.name = "middle", .inner = &inner};
    struct outer outer = {.id = i, .middle = &middle};
    read_outer(&outer);
  }
  for (int i = 0; i < 10; i++) negative(i);
  for (int i = 0; i < five; i++) caller_one(i);
  for (int i = 0; i < three; i++) caller_two(i);
  int given = 0;
  for (int i = 0; i < 4; i++) given = given * 100 + maybe(i);
  printf("maybe %d\n", given);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "threads") == 0) {
    pthread_t threads[4];
    for (long i = 0; i < 4; i++) pthread_create(&threads[i], 0, ticks, (void *)i);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
  } else {
    calls();
  }
  return 0;
}
