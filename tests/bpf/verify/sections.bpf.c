/* Programs that are refused before the verifier looks at them, and one that is loaded only when asked for. */
#include "../common.h"

extern int bpf_no_such_function(int) __ksym;
int result;

SEC("kprobe/do_sys_open")
int of_a_kernel(void *ctx) {
  return 0;
}

SEC("fentry/add2")
int calls_nothing(void *ctx) {
  result = bpf_no_such_function(1);
  return 0;
}

SEC("?fentry/add2")
int not_loaded_by_itself(void *ctx) {
  return 0;
}
