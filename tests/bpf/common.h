/* What the programs of this folder include. */
#pragma once
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define EEXIST 17
#define ENOENT 2
#define E2BIG 7
#define EFAULT 14

char LICENSE[] SEC("license") = "GPL";
