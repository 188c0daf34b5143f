/* Sleepable programs may copy from the process's memory; a bad address is told, and leaves zeros. */
#include "common.h"

int good, bad, cleared, empty;
char last[16];

SEC("fentry.s/take_pointer")
int BPF_PROG(on_pointer, const void *pointer) {
  char bytes[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  long got = bpf_copy_from_user(bytes, 5, pointer);
  if (got == 0) {
    good++;
    __builtin_memcpy(last, bytes, 5);
  } else if (got == -EFAULT) {
    bad++;
    if (!bytes[0] && !bytes[1] && !bytes[2] && !bytes[3] && !bytes[4] && bytes[5] == 1) cleared++;
  }
  if (bpf_copy_from_user(bytes, 0, pointer) == 0) empty++;
  return 0;
}

char from_exit[16];

SEC("fexit.s/greet")
int BPF_PROG(after_greet, const char *name) {
  bpf_copy_from_user(from_exit, 10, name);
  return 0;
}
