/* What the programs of this folder share. They run on the kernel's functions for tests, and on tests/targets/test_run.c. */
#pragma once
#include "../common.h"

struct bpf_fentry_test_t {
  struct bpf_fentry_test_t *a;
} __attribute__((preserve_access_index));

struct open_how {
  __u64 flags, mode, resolve;
} __attribute__((preserve_access_index));

#define PARAMS(...) __VA_ARGS__
