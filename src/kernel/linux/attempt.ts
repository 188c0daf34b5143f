/**
 * bpf(2) as an attempt: what the kernel answers to a command that asks whether something is there. Nothing that an attempt
 * makes outlives it.
 */

import { encodeProgram } from '../../bpf/encoding.js';
import type { BpfInsn } from '../../bpf/instruction.js';
import { addressOf, SystemError } from '../../ffi/libc.js';
import { Attr, bpf, Fd } from './bpf.js';

const LOG_BYTES = 1 << 16;

/** Offsets in `union bpf_attr` of BPF_PROG_LOAD and BPF_LINK_CREATE. */
const LOAD = {
  type: 0,
  count: 4,
  insns: 8,
  license: 16,
  level: 24,
  logSize: 28,
  log: 32,
  attach: 68,
  btfId: 108,
} as const;
const LINK = { prog: 0, attach: 8 } as const;
const KPROBE_MULTI = { count: 20, symbols: 24 } as const;
const TRACING_MULTI = { ids: 16, count: 32 } as const;

/** What came of it: 0 or an errno, and the verifier's words without its statistics. */
export interface Answer {
  readonly errno: number;
  readonly log: string;
}

const WORKED: Answer = { errno: 0, log: '' };

function attempt(work: () => number, then: (fd: number) => Answer = () => WORKED, log?: Buffer): Answer {
  let made: number;
  try {
    made = work();
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    return { errno: cause.errno, log: textOf(log) };
  }
  using fd = new Fd(made);
  return then(fd.number);
}

function textOf(log: Buffer | undefined): string {
  if (log === undefined) return '';
  const text = log.toString('utf8', 0, Math.max(0, log.indexOf(0)));
  return text.replace(/^(processed|verification time|stack depth) .*\n?/gm, '').trim();
}

/** Makes a map. */
export function tryMap(
  type: number,
  keySize: number,
  valueSize: number,
  maxEntries: number,
  flags = 0,
): Answer {
  const attr = new Attr();
  for (const [i, word] of [type, keySize, valueSize, maxEntries, flags].entries()) attr.u32(4 * i, word);
  return attempt(() => bpf('MAP_CREATE', attr));
}

/** A program that is only loaded. */
export interface ProgramAttempt {
  /** `PROG_TYPE` */
  readonly type: number;
  /** `ATTACH` */
  readonly attach?: number;
  /** `attach_btf_id` */
  readonly btfId?: number | undefined;
  readonly insns: readonly BpfInsn[];
}

/** Loads a program, and goes on with `then`. */
export function tryProgram(
  { type, attach = 0, btfId = 0, insns }: ProgramAttempt,
  then?: (fd: number) => Answer,
): Answer {
  const code = Buffer.from(encodeProgram(insns));
  const log = Buffer.alloc(LOG_BYTES);
  const attr = new Attr()
    .u32(LOAD.type, type)
    .u32(LOAD.count, code.length / 8)
    .pointer(LOAD.insns, code)
    .pointer(LOAD.license, Buffer.from('GPL\0'))
    .u32(LOAD.level, 1)
    .u32(LOAD.logSize, log.length)
    .pointer(LOAD.log, log)
    .u32(LOAD.attach, attach)
    .u32(LOAD.btfId, btfId);
  return attempt(() => bpf('PROG_LOAD', attr), then, log);
}

function tryLinkCreate(prog: number, attach: number, more: (attr: Attr) => void = () => {}): Answer {
  const attr = new Attr().u32(LINK.prog, prog).u32(LINK.attach, attach);
  more(attr);
  return attempt(() => bpf('LINK_CREATE', attr));
}

/** A plain tracing link. */
export function tryLink(prog: number, attach: number): Answer {
  return tryLinkCreate(prog, attach);
}

/** A tracing multi-link on one function. */
export function tryMultiLink(prog: number, attach: number, btfId: number): Answer {
  const ids = Buffer.from(Uint32Array.of(btfId).buffer);
  return tryLinkCreate(prog, attach, attr =>
    attr.pointer(TRACING_MULTI.ids, ids).u32(TRACING_MULTI.count, 1),
  );
}

/** A kprobe multi-link on a function by name. */
export function tryKprobeMultiLink(prog: number, attach: number, name: string): Answer {
  // One address, and the name that it is of.
  const symbols = Buffer.concat([Buffer.alloc(8), Buffer.from(`${name}\0`)]);
  symbols.writeBigUInt64LE(addressOf(symbols) + 8n);
  return tryLinkCreate(prog, attach, attr =>
    attr.u32(KPROBE_MULTI.count, 1).pointer(KPROBE_MULTI.symbols, symbols),
  );
}

/** Counts all programs' runs for a moment. */
export function tryStats(): Answer {
  return attempt(() => bpf('ENABLE_STATS', new Attr()));
}
