/* Numbers out of the program's text: signs, bases, where they end, and what is no number. */
#include "common.h"

#define EINVAL 22
#define ERANGE 34

long values[6], lengths[6], unsigned_lengths[6];
__u64 unsigned_values[6];
int texts, hexadecimal, octal, wrong_base;

SEC("fentry/parse")
int BPF_PROG(on_parse, const char *text) {
  char copy[32] = {};
  unsigned long natural = 0;
  long number = 0, got;
  int at = texts++;
  if (at < 0 || at >= 6) return 0;
  got = bpf_probe_read_user_str(copy, sizeof(copy), text);
  if (got < 0) return 0;
  lengths[at] = bpf_strtol(copy, sizeof(copy), 0, &number);
  values[at] = number;
  unsigned_lengths[at] = bpf_strtoul(copy, sizeof(copy), 10, &natural);
  unsigned_values[at] = natural;
  if (bpf_strtol(copy, sizeof(copy), 16, &number) == 2 && number == 0x42) hexadecimal++;
  if (bpf_strtol(copy, sizeof(copy), 8, &number) == 2 && number == 042) octal++;
  if (bpf_strtol(copy, sizeof(copy), 7, &number) == -EINVAL) wrong_base++;
  return 0;
}
