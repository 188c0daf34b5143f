/**
 * How a dynptr lies on a program's stack: 16 bytes, written and read by helpers only.
 *
 *     0            8                      12
 *     | DATA u64   | SIZE u32             | OFFSET u32 |
 *                    31      30..28  23..0
 *                    RDONLY  TYPE    bytes
 *
 * DATA 0 is the null dynptr, which a constructor leaves when it fails: every operation on it is refused. OFFSET is
 * where the dynptr begins in DATA; nothing moves it yet. SIZE counts from OFFSET.
 */
export const DYNPTR = { DATA: 0, SIZE: 8, OFFSET: 12, BYTES: 16 } as const;

/** The largest memory behind a dynptr, bytes. */
export const DYNPTR_MAX_SIZE = 0xff_ffff;

/** Bits of SIZE above the bytes. TYPE is for the submit and discard of ring buffer memory: only RINGBUF may be. */
export const DYNPTR_TYPE_SHIFT = 28;
export const DYNPTR_TYPE = { LOCAL: 1, RINGBUF: 2 } as const;
export const DYNPTR_RDONLY = 0x8000_0000;
