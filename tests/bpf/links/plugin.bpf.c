/* A library that comes and goes: a plain and a multi program on it. */
#include "../common.h"

__u64 plain, multi, exits;

SEC("fentry/plugin:plugin_work") int BPF_PROG(on_work, int n) { __sync_fetch_and_add(&plain, 1); return 0; }
SEC("fentry.multi/plugin:plugin_*") int BPF_PROG(on_any) { __sync_fetch_and_add(&multi, 1); return 0; }
SEC("fexit.multi/plugin:plugin_step") int BPF_PROG(on_step) { __sync_fetch_and_add(&exits, 1); return 0; }
