/* Atomic operations, with and without what was there before. */
#include "common.h"

__u64 added, ored = 1, anded = 0xff, xored = 0xf0;
#if __BPF_CPU_VERSION__ >= 3
__u64 fetched, exchanged = 7, old, compared = 5, swapped, kept;
__u32 narrow = 0xfffffff0;
#endif

SEC("fentry/six")
int BPF_PROG(on_six, long a, long b, long c, long d, long e, long f) {
  __sync_fetch_and_add(&added, f);
  __sync_fetch_and_or(&ored, 6);
  __sync_fetch_and_and(&anded, 0x3c);
  __sync_fetch_and_xor(&xored, 0xff);
#if __BPF_CPU_VERSION__ >= 3
  fetched = __sync_fetch_and_add(&added, 10);
  old = __sync_lock_test_and_set(&exchanged, 9);
  swapped = __sync_val_compare_and_swap(&compared, 5, 50);
  kept = __sync_val_compare_and_swap(&compared, 5, 60);
  __sync_fetch_and_add(&narrow, 0x20);
#endif
  return 0;
}
