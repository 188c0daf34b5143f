/*
 * Functions with one to six arguments of different types, and twins of them with other types; called on order.
 * Prints `pid P`, then answers each line of input:
 *
 *   call          every function once with fixed arguments: `called R…`, their results
 *   maybe N       `maybe R`
 *   spin N        four threads call `counted` N times each: `spun N`
 *   load PATH     dlopen; `loaded`
 *   work N        plugin_work of what was loaded N times: `worked`
 *   unload        dlclose; `unloaded`
 *   fork          a child that calls `counted` till it is killed: `child P`
 *
 * Compile with -g: its types are looked at.
 */
#include "called.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t u64;

struct point {
  int x;
  long y;
};
struct node {
  long id;
  struct node *next;
  struct point at;
};
enum level { LOW = -1, HIGH = 7 };
/* As `struct node`, by another name. */
struct other {
  long id;
  struct node *next;
  struct point at;
};

unsigned long plugin_calls[4];
volatile long sink;

TRACED int eight_1(int a) { return a + 1; }
TRACED int eight_2(int a, u64 b) { return a + (int)b; }
TRACED int eight_3(char a, int b, u64 c) { return a + b + (int)c; }
TRACED u64 eight_4(void *a, char b, int c, u64 d) { return (u64)a + (u64)b + (u64)c + d; }
TRACED long eight_5(u64 a, void *b, short c, int d, u64 e) { return (long)(a + (u64)b + (u64)c + (u64)d + e); }
TRACED long eight_6(u64 a, void *b, short c, int d, void *e, u64 f) {
  return (long)(a + (u64)b + (u64)c + (u64)d + (u64)e + f);
}
TRACED long eight_7(struct node *n) { return n->id + n->next->id; }
TRACED int eight_8(const struct node *n, int more) { return (int)n->at.y + more; }

TRACED int twin_unsigned(unsigned a) { return (int)a - 1; }
TRACED int twin_long(long a) { return (int)a - 2; }
TRACED int twin_enum(enum level a) { return a - 3; }
TRACED long twin_struct(struct other *n) { return n->id; }
TRACED long twin_result(int a) { return a - 4; }
TRACED void twin_void(int a) { sink += a; }
TRACED int twin_double(double a) { return (int)a; }
TRACED int twin_none(void) { return 5; }

TRACED int maybe(int n) { sink++; return n * 10; }
TRACED int counted(int n) { sink += n; return n; }
/* One function under two names. */
int counted_too(int n) __attribute__((alias("counted")));

static struct node second = {200, 0, {3, 4}}, first = {100, &second, {5, 60}};

static void call(void) {
  long r[16] = {eight_1(1),
                eight_2(-2, 3),
                eight_3(4, -5, 6),
                (long)eight_4((void *)7, 8, -9, 10),
                eight_5(11, (void *)12, -13, 14, 15),
                eight_6(16, (void *)17, 18, -19, (void *)20, 21),
                eight_7(&first),
                eight_8(&first, 22),
                twin_unsigned(1),
                twin_long(2),
                twin_enum(HIGH),
                twin_struct((struct other *)&first),
                twin_result(3),
                (twin_void(4), 0),
                twin_double(5.5),
                twin_none()};
  printf("called");
  for (int i = 0; i < 16; i++) printf(" %ld", r[i]);
  printf("\n");
}

static void *spins(void *n) {
  for (long i = (long)n; i > 0; i--) {
    int got = counted(1);
    USE(got);
  }
  return 0;
}

int main(void) {
  char line[4096];
  void *library = 0;
  setvbuf(stdout, 0, _IOLBF, 0);
  printf("pid %d\n", getpid());
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = 0;
    char *word = strchr(line, ' ');
    long n = word ? atol(word + 1) : 0;
    if (strcmp(line, "call") == 0) call();
    else if (strncmp(line, "maybe", 5) == 0) printf("maybe %d\n", maybe((int)n));
    else if (strncmp(line, "spin", 4) == 0) {
      pthread_t threads[4];
      for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, spins, (void *)n);
      for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
      printf("spun %ld\n", n);
    } else if (strncmp(line, "load", 4) == 0) {
      library = dlopen(word + 1, RTLD_NOW);
      printf(library ? "loaded\n" : "failed %s\n", library ? "" : dlerror());
    } else if (strncmp(line, "work", 4) == 0) {
      int (*work)(int) = (int (*)(int))dlsym(library, "plugin_work");
      for (long i = 0; i < n; i++) work((int)i);
      printf("worked\n");
    } else if (strcmp(line, "unload") == 0) {
      dlclose(library);
      printf("unloaded\n");
    } else if (strcmp(line, "fork") == 0) {
      pid_t child = fork();
      if (child == 0)
        for (;;) {
          int got = counted(1);
          USE(got);
        }
      printf("child %d\n", child);
    }
  }
  return 0;
}
