/**
 * The stack frame that a trampoline makes, as a program sees it through its context pointer.
 *
 *     ctx + 8*i   argument i of the traced function, u64; behind the last one the return value (not for fentry)
 *     ctx -  8    address of the program-array entry that runs: { u64 bpf_func, u64 cookie }
 *     ctx - 16    address of the function metadata record
 *     ctx - 24    address of the stack word that holds the function's return address
 *     ctx - 32    fsession: address of this call's cookie word for this program
 *     ctx - 40    fsession: 0 when the function is entered, 1 when it returns
 *
 * Trampolines write it, the JIT reads it (bpf_get_func_ip, bpf_get_attach_cookie, bpf_get_func_arg, bpf_get_stack,
 * bpf_session_cookie, bpf_session_frame, bpf_session_is_return). `ctx - 16` and `ctx - 24` are there for programs that say
 * they need them, and for all that are not plain fentry; `ctx - 32` and `ctx - 40` for fsession only.
 */

/** How far below the context the frame of plain fentry programs goes. */
export type FrameDepth = 'entry' | 'record' | 'stack';

export const FRAME = { entry: -8, record: -16, stack: -24, cookie: -32, isReturn: -40 } as const;
