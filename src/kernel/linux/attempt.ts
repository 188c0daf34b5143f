/**
 * bpf(2) as an attempt: what the kernel answers to a command that asks whether something is there. Nothing that an attempt
 * makes outlives it.
 */

import { closeSync } from 'node:fs';
import { encodeProgram } from '../../bpf/encoding.js';
import type { BpfInsn } from '../../bpf/instruction.js';
import { addressOf, SystemError, systemCall } from '../../ffi/libc.js';
import { type ErrnoName, errnoName } from '../errno.js';

const SYS_BPF = 321;
const ATTR_BYTES = 160;
const LOG_BYTES = 1 << 16;

/** linux/bpf.h: commands. */
export const COMMAND = { MAP_CREATE: 0, PROG_LOAD: 5, LINK_CREATE: 28, ENABLE_STATS: 32 } as const;
/** Program types. */
export const PROG_TYPE = { KPROBE: 2, TRACING: 26 } as const;
/** `enum bpf_attach_type`. */
export const ATTACH = {
  FENTRY: 24,
  FEXIT: 25,
  MODIFY_RETURN: 26,
  KPROBE_MULTI: 42,
  KPROBE_SESSION: 56,
  FSESSION: 58,
  FENTRY_MULTI: 59,
  FEXIT_MULTI: 60,
  FSESSION_MULTI: 61,
} as const;

/** Offsets in `union bpf_attr`. */
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
};
const LINK = { prog: 0, attach: 8, targetBtf: 12 };
const KPROBE_MULTI = { count: 20, symbols: 24 };
const TRACING_MULTI = { ids: 16, count: 32 };

/** What came of it: an errno, or nothing went wrong. */
export interface Answer {
  /** Left out where it worked. */
  readonly code?: ErrnoName;
  /** The number, also of those that have no name here. */
  readonly errno: number;
  /** The verifier's words, without its statistics. */
  readonly log: string;
}

const WORKED: Answer = { errno: 0, log: '' };

function bpf(command: number, attr: Buffer): number {
  return Number(systemCall('bpf', SYS_BPF, command, addressOf(attr), attr.length));
}

function answer(work: () => number, then: (fd: number) => Answer, log?: Buffer): Answer {
  let fd: number;
  try {
    fd = work();
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    const code = errnoName(cause.errno);
    return { errno: cause.errno, ...(code === undefined ? {} : { code }), log: textOf(log) };
  }
  try {
    return then(fd);
  } finally {
    closeSync(fd);
  }
}

function textOf(log: Buffer | undefined): string {
  if (log === undefined) return '';
  const end = log.indexOf(0);
  const text = log.toString('utf8', 0, end < 0 ? log.length : end);
  return text.replace(/^(processed|verification time|stack depth) .*\n?/gm, '').trim();
}

/** Makes a map with so many entries, and frees it. */
export function tryMap(
  type: number,
  keySize: number,
  valueSize: number,
  maxEntries: number,
  flags = 0,
): Answer {
  const attr = Buffer.alloc(ATTR_BYTES);
  [type, keySize, valueSize, maxEntries, flags].forEach((word, i) => {
    attr.writeUInt32LE(word, 4 * i);
  });
  return answer(
    () => bpf(COMMAND.MAP_CREATE, attr),
    () => WORKED,
  );
}

/** What an attempt to load a program says. */
export interface ProgramAttempt {
  readonly type: number;
  readonly attach?: number;
  /** `attach_btf_id` */
  readonly btfId?: number;
  readonly insns: readonly BpfInsn[];
}

/** Loads a program, goes on with `then`, and frees it. */
export function tryProgram(
  { type, attach = 0, btfId = 0, insns }: ProgramAttempt,
  then: (fd: number) => Answer = () => WORKED,
): Answer {
  const code = Buffer.from(encodeProgram(insns));
  const license = Buffer.from('GPL\0');
  const log = Buffer.alloc(LOG_BYTES);
  const attr = Buffer.alloc(ATTR_BYTES);
  attr.writeUInt32LE(type, LOAD.type);
  attr.writeUInt32LE(code.length / 8, LOAD.count);
  attr.writeBigUInt64LE(addressOf(code), LOAD.insns);
  attr.writeBigUInt64LE(addressOf(license), LOAD.license);
  attr.writeUInt32LE(1, LOAD.level);
  attr.writeUInt32LE(log.length, LOAD.logSize);
  attr.writeBigUInt64LE(addressOf(log), LOAD.log);
  attr.writeUInt32LE(attach, LOAD.attach);
  attr.writeUInt32LE(btfId, LOAD.btfId);
  return answer(() => bpf(COMMAND.PROG_LOAD, attr), then, log);
}

/** A plain tracing link of a program, which goes at once. */
export function tryLink(prog: number, attach: number): Answer {
  const attr = Buffer.alloc(ATTR_BYTES);
  attr.writeUInt32LE(prog, LINK.prog);
  attr.writeUInt32LE(attach, LINK.attach);
  return answer(
    () => bpf(COMMAND.LINK_CREATE, attr),
    () => WORKED,
  );
}

/** A tracing multi-link on one function, which goes at once. */
export function tryMultiLink(prog: number, attach: number, btfId: number): Answer {
  const ids = Buffer.alloc(4);
  ids.writeUInt32LE(btfId);
  const attr = Buffer.alloc(ATTR_BYTES);
  attr.writeUInt32LE(prog, LINK.prog);
  attr.writeUInt32LE(attach, LINK.attach);
  attr.writeBigUInt64LE(addressOf(ids), TRACING_MULTI.ids);
  attr.writeUInt32LE(1, TRACING_MULTI.count);
  return answer(
    () => bpf(COMMAND.LINK_CREATE, attr),
    () => WORKED,
  );
}

/** A kprobe multi-link on a function by name. */
export function tryKprobeMultiLink(prog: number, attach: number, name: string): Answer {
  const text = Buffer.from(`${name}\0`);
  const symbols = Buffer.alloc(8);
  symbols.writeBigUInt64LE(addressOf(text));
  const attr = Buffer.alloc(ATTR_BYTES);
  attr.writeUInt32LE(prog, LINK.prog);
  attr.writeUInt32LE(attach, LINK.attach);
  attr.writeUInt32LE(1, KPROBE_MULTI.count);
  attr.writeBigUInt64LE(addressOf(symbols), KPROBE_MULTI.symbols);
  return answer(
    () => bpf(COMMAND.LINK_CREATE, attr),
    () => WORKED,
  );
}

/** Counts all programs' runs for a moment. */
export function tryStats(): Answer {
  return answer(
    () => bpf(COMMAND.ENABLE_STATS, Buffer.alloc(ATTR_BYTES)),
    () => WORKED,
  );
}
