/* Reading memory of the program: good and bad addresses, strings. */
#include "common.h"

int good, bad, kernel_good, cleared;
char names[4][32];
long lengths[4];
int greeted;

SEC("fentry/take_pointer")
int BPF_PROG(on_pointer, const void *pointer) {
  char bytes[4] = {1, 1, 1, 1};
  if (bpf_probe_read_user(bytes, sizeof(bytes), pointer) == 0)
    good++;
  else {
    bad++;
    if (!bytes[0] && !bytes[1] && !bytes[2] && !bytes[3]) cleared++;
  }
  if (bpf_probe_read_kernel(bytes, sizeof(bytes), pointer) == 0 && bytes[0] == 'g') kernel_good++;
  return 0;
}

SEC("fentry/greet")
int BPF_PROG(on_greet, const char *name) {
  int at = greeted & 3;
  lengths[at] = bpf_probe_read_user_str(names[at], sizeof(names[at]), name);
  greeted++;
  return 0;
}
