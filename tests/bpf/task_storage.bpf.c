/* Storage for each thread: the current thread is task 0 here. */
#include "common.h"

struct {
  __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, __u64);
} calls SEC(".maps");

__u64 total, wrong;

SEC("fentry/tick")
int BPF_PROG(on_tick, long thread, long i) {
  __u64 *count = bpf_task_storage_get(&calls, (void *)0, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
  if (!count) return 0;
  /* Each thread calls with 0, 1, 2, …: its own count says which is next. */
  if (*count != i) __sync_fetch_and_add(&wrong, 1);
  *count += 1;
  __sync_fetch_and_add(&total, 1);
  return 0;
}
