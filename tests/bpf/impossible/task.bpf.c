/* A process has no task_struct. */
#include "../common.h"

long task;

SEC("fentry/six")
int BPF_PROG(on_six) {
  task = (long)bpf_get_current_task_btf();
  return 0;
}
