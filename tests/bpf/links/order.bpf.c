/*
 * The order in which programs run on one function: each notes its letter. Entry programs begin with e, modify-return
 * with m, those at the return with x; the second letter is that of the program.
 */
#include "../common.h"

extern bool bpf_session_is_return(void *ctx) __ksym;

char order[128];
__u32 noted;
/* What the modify-return programs give. */
int first_gives, second_gives;
/* What programs at the return saw. */
int seen[8];
__u32 results;

static __always_inline void note(char kind, char name) {
  __u32 at = noted;
  if (at < 64) {
    order[2 * at & 127] = kind;
    order[(2 * at + 1) & 127] = name;
    noted = at + 1;
  }
}
static __always_inline void result(int r) {
  __u32 at = results;
  if (at < 8) {
    seen[at & 7] = r;
    results = at + 1;
  }
}

SEC("fentry/maybe") int BPF_PROG(entry_a, int n) { note('e', 'a'); return 0; }
SEC("fentry.multi/maybe") int BPF_PROG(entry_b, int n) { note('e', 'b'); return 0; }
SEC("fentry/maybe") int BPF_PROG(entry_c, int n) { note('e', 'c'); return 0; }
SEC("fmod_ret/maybe") int BPF_PROG(modify_a, int n) { note('m', 'a'); return first_gives; }
SEC("fmod_ret.multi/maybe") int BPF_PROG(modify_b, int n) { note('m', 'b'); return second_gives; }
SEC("fexit/maybe") int BPF_PROG(exit_a, int n, int r) { note('x', 'a'); result(r); return 0; }
SEC("fexit.multi/maybe") int BPF_PROG(exit_b, int n, int r) { note('x', 'b'); result(r); return 0; }
SEC("fsession/maybe") int BPF_PROG(session_s, int n) {
  note(bpf_session_is_return(ctx) ? 'x' : 'e', 'i');
  return 0;
}
SEC("fentry.s/maybe") int BPF_PROG(sleeps_a, int n) { note('e', 's'); return 0; }
SEC("fexit.multi.s/maybe") int BPF_PROG(sleeps_b, int n, int r) { note('x', 's'); return 0; }
