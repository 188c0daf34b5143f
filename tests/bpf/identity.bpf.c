/* Who calls: process, thread, name, user, CPU (a thread's number here), chance. */
#include "common.h"

__u64 pid_tgid, uid_gid;
char comm[16];
long comm_result;
__u32 cpu, random_one, random_two;

SEC("fentry/six")
int BPF_PROG(on_six) {
  pid_tgid = bpf_get_current_pid_tgid();
  uid_gid = bpf_get_current_uid_gid();
  comm_result = bpf_get_current_comm(comm, sizeof(comm));
  cpu = bpf_get_smp_processor_id();
  random_one = bpf_get_prandom_u32();
  random_two = bpf_get_prandom_u32();
  return 0;
}
