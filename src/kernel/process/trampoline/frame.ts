/**
 * The stack frame that a trampoline makes, as a program sees it through its context pointer.
 *
 *     ctx + 8*i   argument i of the traced function, u64
 *     ctx -  8    address of the function metadata record
 *     ctx - 16    address of the program-array entry that runs: { u64 bpf_func, u64 cookie }
 *
 * Trampolines write it, the JIT reads it (bpf_get_func_ip, bpf_get_attach_cookie, bpf_get_func_arg).
 */

export const FRAME = { record: -8, entry: -16 } as const;
