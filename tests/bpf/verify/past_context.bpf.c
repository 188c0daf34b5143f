/* Refused: a third argument of a function that has two. */
#include "../common.h"

__u64 seen;

SEC("fentry/add2")
int on_add2(__u64 *ctx) {
  seen = ctx[6]; /* HERE */
  return 0;
}

SEC("fentry/add2")
int on_add2_second(__u64 *ctx) {
  seen = ctx[1];
  return 0;
}
