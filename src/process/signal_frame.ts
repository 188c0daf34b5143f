/**
 * The frame that the kernel lays on a thread's stack for a signal handler: `struct rt_sigframe` of x86-64. Declared once,
 * for those who look for such frames (stacks.ts) and those who write one (heal.ts).
 */

/** Offsets in the frame. It begins with the handler's return address: the restorer; then comes a ucontext_t. */
const UCONTEXT = 8;
const GREGS = UCONTEXT + 40;

export const SIGNAL_FRAME = {
  restorer: 0,
  flags: UCONTEXT,
  stackFlags: UCONTEXT + 24,
  /** r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip; u64 each. */
  registers: GREGS,
  rip: GREGS + 16 * 8,
  eflags: GREGS + 17 * 8,
  /** cs, gs, fs, ss; u16 each. */
  segments: GREGS + 18 * 8,
  /** Address of the vector state. */
  vectors: GREGS + 23 * 8,
  mask: UCONTEXT + 296,
  size: UCONTEXT + 304,
} as const;

/** What a restorer does: rt_sigreturn, number 15. `mov rax, 15; syscall` is what the C libraries have. */
export const RESTORER: readonly number[] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
/** The other way to write it: `mov eax, 15; syscall`. */
export const SHORT_RESTORER: readonly number[] = [0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05];
