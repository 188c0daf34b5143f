/* Arithmetic that later processors have instructions for, the same at every version. */
#include "common.h"

long shifted, swapped16, swapped32, swapped64, extended8, extended16, extended32, product, high, unsigned_division;
long quotient, rest;
__s8 byte = -5;
__s16 half = -500;
__s32 word = -50000;

SEC("fentry/six")
int BPF_PROG(on_six, long a, long b, long c, long d) {
  long big = 0x1122334455667788;
  barrier_var(big);
  shifted = -big >> (a + 3);
  swapped16 = __builtin_bswap16((__u16)big);
  swapped32 = __builtin_bswap32((__u32)big);
  swapped64 = __builtin_bswap64(big);
  extended8 = byte;
  extended16 = half;
  extended32 = word;
  product = (int)a * -7 * d;
  high = (__u64)big >> 60;
  unsigned_division = (__u64)big / (__u64)(c + 4) + (__u64)big % (__u64)(c + 4);
#if __BPF_CPU_VERSION__ >= 4
  long minus = -100 * a;
  barrier_var(minus);
  quotient = minus / (c + 4);
  rest = minus % (c + 4);
#else
  quotient = -14;
  rest = -2;
#endif
  return 0;
}
