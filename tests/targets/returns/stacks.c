/*
 * Stacks as the program itself sees them from inside traced functions: backtrace() and _Unwind_Backtrace, from the
 * bottom of a recursion, under a tail call, in a signal handler and in another thread. Prints the names of the functions.
 */
#define _GNU_SOURCE
#define FUNCTIONS(X) X(looks) X(walks) X(descends) X(goes_on) X(in_handler)
#include "../rounds.h"
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <unwind.h>

static void show(void *const *frames, int n) {
  for (int i = 0; i < n; i++) {
    Dl_info info;
    const char *name = dladdr((char *)frames[i] - 1, &info) && info.dli_sname ? info.dli_sname : "?";
    const char *file = info.dli_fname ? strrchr(info.dli_fname, '/') : NULL;
    printf(" %s@%s", name, file ? file + 1 : "?");
  }
  printf("\n");
}
TRACED int looks(int x) {
  ENTER(looks);
  void *frames[64];
  int n = backtrace(frames, 64);
  show(frames, n);
  LEAVE(looks);
  return n + x;
}
struct walk { void *frames[64]; int n; };
static _Unwind_Reason_Code note(struct _Unwind_Context *context, void *walk) {
  struct walk *to = walk;
  if (to->n == 64) return _URC_END_OF_STACK;
  to->frames[to->n++] = (void *)_Unwind_GetIP(context);
  return _URC_NO_REASON;
}
TRACED int walks(int x) {
  ENTER(walks);
  struct walk walk = {.n = 0};
  _Unwind_Backtrace(note, &walk);
  show(walk.frames, walk.n);
  LEAVE(walks);
  return walk.n + x;
}
TRACED int goes_on(int x) {
  ENTER(goes_on);
  LEAVE(goes_on);
  return x % 2 ? looks(x) : walks(x);
}
TRACED int descends(int depth, int x) {
  ENTER(descends);
  int below = depth == 0 ? goes_on(x) : descends(depth - 1, x);
  USE(below);
  LEAVE(descends);
  return below + 1;
}
TRACED void in_handler(int x) {
  ENTER(in_handler);
  descends(2, x);
  LEAVE(in_handler);
}
static void on_signal(int number) {
  (void)number;
  in_handler(1);
  in_handler(2);
}
static void *in_thread(void *x) { return (void *)(long)descends(4, (int)(long)x); }

static void one_round(void) {
  signal(SIGUSR1, on_signal);
  for (int i = 0; i < 4; i++) printf("%d\n", descends(i * 3, i));
  raise(SIGUSR1);
  pthread_t thread;
  void *result;
  pthread_create(&thread, NULL, in_thread, (void *)1);
  pthread_join(thread, &result);
  printf("thread %ld\n", (long)result);
}
