/* Refused: memory at an address that only is a number; with a prototype it is a pointer. */
#include "../common.h"

struct inner {
  int x, y;
};
int result;

SEC("fentry/add2")
int BPF_PROG(on_add2, struct inner *p) {
  result = p->y; /* HERE */
  return 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2_read, struct inner *p) {
  bpf_probe_read_user(&result, sizeof result, &p->y);
  return 0;
}
