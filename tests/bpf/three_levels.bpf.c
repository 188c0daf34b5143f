/*
 * Three levels of pointers in structures of a library whose layout is not known here: through a helper, and by plain C
 * through pointers whose types the library's functions have.
 */
#include "common.h"
#include <bpf/bpf_core_read.h>

struct owner {
  unsigned age;
  char name[16];
} __attribute__((preserve_access_index));
struct ledger {
  long total;
  struct owner *owner;
} __attribute__((preserve_access_index));
struct account {
  struct ledger *ledger;
  int number;
} __attribute__((preserve_access_index));

long ages, plain_ages, totals, numbers, calls, nowhere;
char last_name[16];

SEC("fentry/libaccount:account_touch")
int BPF_PROG(by_helper, struct account *account, int times) {
  calls++;
  numbers += BPF_CORE_READ(account, number);
  struct ledger *ledger = BPF_CORE_READ(account, ledger);
  totals += BPF_CORE_READ_BITFIELD_PROBED(ledger, total);
  struct owner *owner = BPF_CORE_READ(ledger, owner);
  if (!owner) {
    nowhere++;
    return 0;
  }
  ages += BPF_CORE_READ(owner, age);
  bpf_core_read_user_str(last_name, sizeof(last_name), &owner->name);
  return 0;
}

SEC("fexit/libaccount:account_touch")
int BPF_PROG(by_type, struct account *account) {
  plain_ages += account->ledger->owner->age;
  return 0;
}
