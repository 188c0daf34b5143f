/** Where our verdicts differ from a kernel's, and why that is right here. */

const NEVER_NULL = 'the context is never null, and the verifier knows it: the other path does not exist';
const BOTH =
  'the context is memory like any other: one load may read it on one path and a map’s value on another';

/** Programs that a kernel refuses and we accept, by name. */
export const LAXER: Readonly<Record<string, string>> = {
  'verifier_basic_stack: invalid_fp_arithmetic':
    'a constant may be subtracted from a stack pointer: our JIT computes with it as with any number',
  'verifier_bounds: shift_with_oversized_count_operand':
    'shifts by too much are defined (RFC 9669: the count is masked), in our JIT and in what the verifier computes',
  'verifier_cfg: conditional_loop': NEVER_NULL,
  'verifier_reg_equal: subreg_equality_2':
    'a copy of a number’s lower half learns what a comparison of that half says; it is the same half',
  'verifier_unpriv_perf: fill_of_different_pointers_ldx': NEVER_NULL,
  'verifier_unpriv: fill_of_different_pointers_stx': NEVER_NULL,
  'verifier_unpriv: fill_of_different_pointers_st': NEVER_NULL,
  'calls: ambiguous return value': NEVER_NULL,
  'calls: spill into caller stack frame':
    'a pointer to the caller’s own frame may lie in that frame; only pointers to frames that end may not',
  'access skb fields bad2': BOTH,
  'access skb fields bad3': BOTH,
  'access skb fields bad4': BOTH,
};

/** Our refusals of what a kernel accepts, by the rule of ours: docs/verifier.md, "Against the kernel's tests". */
export const STRICTER: readonly (readonly [RegExp, string])[] = [
  [
    /leaks addr into|partial copy of pointer|sign-extension part of pointer|attempt to corrupt spilled pointer|pointer -= pointer|neg operator|expected=scalar|pointer arithmetic on (ctx|map_ptr)|R8 !read_ok/,
    'addresses of ours are not numbers, as for unprivileged programs in Linux',
  ],
  [/this call is for map/, 'one call is for maps of one shape'],
  [/R9 !read_ok/, 'numbers stored in a part of a slot are not linked'],
  [/div by zero|off=2 size=1/, 'rounds of callbacks are not counted'],
  [/program is too large/, 'the walk is longer than a million instructions'],
  [/combined stack size/, 'no stack is saved around calls that keep registers'],
  [/inside bpf_spin_lock-ed region/, 'a function that takes a lock gives it back'],
  [/bpf_trace_printk.*!read_ok/, 'arguments of a format that is not known are all there'],
];
