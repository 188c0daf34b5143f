/* Three levels of pointers through CO-RE: types that have other members at other places in the program. */
#include "common.h"
#include <bpf/bpf_core_read.h>

struct inner___ours {
  int answer;
} __attribute__((preserve_access_index));
struct middle___ours {
  struct inner___ours *inner;
  int not_there;
} __attribute__((preserve_access_index));
struct outer___ours {
  struct middle___ours *middle;
  long id;
} __attribute__((preserve_access_index));

long sum, ids;
int has_id, has_not, answer_size;

SEC("fentry/read_outer")
int BPF_PROG(on_read, struct outer___ours *outer) {
  struct middle___ours *middle = 0;
  struct inner___ours *inner = 0;
  int answer = 0;
  long id = 0;
  bpf_core_read_user(&middle, sizeof(middle), &outer->middle);
  bpf_core_read_user(&inner, sizeof(inner), &middle->inner);
  bpf_core_read_user(&answer, sizeof(answer), &inner->answer);
  bpf_core_read_user(&id, sizeof(id), &outer->id);
  sum += answer;
  ids += id;
  has_id = bpf_core_field_exists(outer->id);
  has_not = bpf_core_field_exists(middle->not_there);
  answer_size = bpf_core_field_size(inner->answer);
  return 0;
}
