/* Lines for people: up to three arguments, and more. */
#include "common.h"

SEC("fentry/six")
int BPF_PROG(on_six, long a, long b, long c, long d, long e, long f) {
  char text[8] = "text";
  bpf_printk("three %d %ld %s", (int)a, b, text);
  bpf_printk("six %ld %ld %ld %ld %ld 0x%lx", a, b, c, d, e, f);
  bpf_printk("plain");
  return 0;
}
