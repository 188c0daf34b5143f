/*
 * A library and the program that uses it, in one source: structures with one of several layouts (-DLAYOUT=n), of which
 * only the members' names are the same. `-DLIBRARY`: the library; without it the program, which knows no layout.
 */
#include <stdio.h>
#include <stdlib.h>

struct account;
struct account *account_open(int n);
long account_touch(const struct account *account, int times);

#ifdef LIBRARY
#if LAYOUT == 1
struct owner { unsigned age; char name[16]; };
struct ledger { long total; struct owner *owner; };
struct account { struct ledger *ledger; int number; };
#elif LAYOUT == 2
struct owner { char name[16]; double unused; unsigned short age; };
struct ledger { struct owner *owner; char padding[100]; int total; };
struct account { char label[40]; int number; struct { int before; struct ledger *ledger; }; };
#else
struct owner { void *first; union { unsigned long age; char raw[8]; }; char name[16]; };
struct ledger { char many[4096]; unsigned total : 20; unsigned rest : 12; struct owner *owner; };
struct account { long long number; void *before[7]; struct ledger *ledger; };
#endif

struct account *account_open(int n) {
  struct account *account = calloc(1, sizeof *account);
  account->ledger = calloc(1, sizeof *account->ledger);
  account->ledger->owner = calloc(1, sizeof *account->ledger->owner);
  account->number = n;
  account->ledger->total = 1000 + n;
  account->ledger->owner->age = 30 + n;
  snprintf(account->ledger->owner->name, 16, "owner %d", n);
  return account;
}

__attribute__((noinline)) long account_touch(const struct account *account, int times) {
  return account->number * times;
}
#else
int main(void) {
  long sum = 0;
  for (int i = 0; i < 5; i++) sum += account_touch(account_open(i), 2);
  /* One whose inner pointers lead nowhere. */
  sum += account_touch(calloc(1, 1 << 13), 1);
  printf("sum %ld\n", sum);
  return 0;
}
#endif
