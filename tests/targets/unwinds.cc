/* Exceptions through traced functions: cleanups call traced functions from deeper down the stack than the frames that
   were left, and so does the handler. */
#include <cstdio>

#define KEEP __attribute__((noinline, noclone))

extern "C" {
KEEP int leaf(int n) {
  __asm__ volatile("");
  return n * 2;
}
KEEP void untraced_cleanup(int n) {
  volatile char room[512];
  room[n & 255] = 1;
  leaf(n);
  __asm__ volatile("");
}
}
struct Guard {
  int n;
  KEEP ~Guard() { untraced_cleanup(n); }
};
extern "C" {
KEEP int thrower(int n) {
  leaf(n);
  if (n >= 0) throw n;
  return n;
}
KEEP int guarded(int n) {
  Guard guard{n + 1};
  int got = thrower(n);
  __asm__ volatile("");
  return got + 1;
}
KEEP int catching(int n) {
  int got = 0;
  try {
    got = guarded(n);
  } catch (int thrown) {
    untraced_cleanup(thrown + 2);
    got = leaf(thrown + 3);
  }
  return got;
}
}

int main() {
  int sum = catching(10);
  sum += catching(20);
  printf("%d\n", sum);
}
