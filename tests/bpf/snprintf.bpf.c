/* Text into memory, and comparing it. */
#include "common.h"

char line[64], cut[8];
long length, cut_length;
int same, other, shorter;

SEC("fentry/six")
int BPF_PROG(on_six, long a, long b, long c, long d) {
  static const char format[] = "a=%d b=%05ld c=%x %s|%-4d|%%";
  static const char word[] = "word";
  __u64 data[] = {a, b, 0xabc, (__u64)(unsigned long)word, d};
  length = bpf_snprintf(line, sizeof(line), format, data, sizeof(data));
  static const char number[] = "%ld-%ld";
  __u64 numbers[] = {123456, 7890};
  cut_length = bpf_snprintf(cut, sizeof(cut), number, numbers, sizeof(numbers));
  same = bpf_strncmp(cut, 3, "123");
  other = bpf_strncmp(cut, 3, "124");
  shorter = bpf_strncmp(cut, 8, "12");
  return 0;
}
