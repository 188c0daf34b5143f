/* Global data of every kind: initialised, zero, constant, in sections of its own; set from outside. */
#include "common.h"

struct limits {
  int low;
  int high;
  char label[16];
};
enum mode { QUIET, LOUD };

int calls = 5;
__u64 total;
static volatile int hidden;
const volatile int step = 1;
const volatile struct limits limits = {.low = 10, .high = 20, .label = "default"};
enum mode mode = QUIET;
bool seen;
__s64 lowest SEC(".data.extremes") = 1 << 30;
__s64 highest SEC(".data.extremes") = -1;
const volatile long factor SEC(".rodata.settings") = 3;
int table[4] = {1, 2, 3, 4};

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  calls += step;
  hidden++;
  if (a < limits.low || a >= limits.high) return 0;
  __sync_fetch_and_add(&total, b * factor);
  if (a < lowest) lowest = a;
  if (a > highest) highest = a;
  mode = LOUD;
  seen = true;
  table[a & 3] += 10;
  return 0;
}
