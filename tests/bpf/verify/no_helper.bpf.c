/* Refused: what a process does not have. */
#include "../common.h"

__u64 task;

SEC("fentry/add2")
int BPF_PROG(on_add2, int a, int b) {
  task = bpf_get_current_task(); /* HERE */
  return 0;
}

SEC("fentry/add2")
int BPF_PROG(on_add2_id, int a, int b) {
  task = bpf_get_current_pid_tgid();
  return 0;
}
