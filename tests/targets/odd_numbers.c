/* Functions that take numbers of which types do not tell how they are passed. Waits for a line, and ends. */
#include "called.h"
#include <stdio.h>

struct decimal_part { _Decimal64 f; };
struct quad_part { __float128 f; };

TRACED long by_decimal(_Decimal64 a, long b) { return b + (a != 0); }
TRACED long by_quad(__float128 a, long b) { return b + (a != 0); }
TRACED long by_vector(int __attribute__((vector_size(16))) a, long b) { return b + a[0]; }
TRACED long by_decimal_part(struct decimal_part a, long b) { return b + (a.f != 0); }
TRACED long by_quad_part(struct quad_part a, long b) { return b + (a.f != 0); }

int main(void) {
  setbuf(stdout, 0);
  puts("ready");
  int vector __attribute__((vector_size(16))) = {1};
  long all = by_decimal(1, 2) + by_quad(1, 2) + by_vector(vector, 2);
  all += by_decimal_part((struct decimal_part){1}, 2) + by_quad_part((struct quad_part){1}, 2);
  getchar();
  return all == 0;
}
