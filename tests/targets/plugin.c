/*
 * The library that host.c loads: its constructor calls its own functions before dlopen() returns. Each function
 * adds to the host's counters, which outlive the library.
 */
#include "called.h"

extern unsigned long plugin_calls[4];

TRACED int plugin_prepare(int x) { plugin_calls[0]++; return x * 3; }
TRACED int plugin_step(int x) { plugin_calls[1]++; return x + 7; }
TRACED int plugin_work(int x) { plugin_calls[2]++; return plugin_step(x) ^ 5; }
TRACED void plugin_finish(int x) { plugin_calls[3] += x >= 0; }

__attribute__((constructor)) static void construct(void) {
  int x = plugin_prepare(1);
  for (int i = 0; i < 7; i++) x = plugin_step(x);
}
__attribute__((destructor)) static void destruct(void) { plugin_finish(1); }
