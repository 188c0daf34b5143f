/* Programs that take each other's place in a link: each counts in a place of its own. */
#include "../common.h"

__u64 first, second, exit_first, exit_second, entered, left, session_in, session_out;

SEC("fentry.multi/counted") int BPF_PROG(one, int n) { __sync_fetch_and_add(&first, 1); return 0; }
SEC("fentry.multi/counted") int BPF_PROG(two, int n) { __sync_fetch_and_add(&second, 1); return 0; }
SEC("fexit.multi/counted") int BPF_PROG(exit_one, int n, int r) { __sync_fetch_and_add(&exit_first, 1); return 0; }
SEC("fexit.multi/counted") int BPF_PROG(exit_two, int n, int r) { __sync_fetch_and_add(&exit_second, 1); return 0; }
SEC("fentry.multi/eight_7") int BPF_PROG(takes_pointer, long *n) {
  __sync_fetch_and_add(&first, n != 0);
  return 0;
}
