/* A traced function has no packet, nor a socket. */
#include "../common.h"

SEC("fentry/six")
int BPF_PROG(on_six) {
  char bytes[4] = {};
  bpf_skb_store_bytes((void *)ctx, 0, bytes, sizeof(bytes), 0);
  return 0;
}
