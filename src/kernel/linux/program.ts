/**
 * Programs in the kernel: `BPF_PROG_LOAD`, its log taken apart, and what the kernel tells of a loaded program.
 */

import { encodeProgram } from '../../bpf/encoding.js';
import { HELPER } from '../../bpf/helpers.js';
import { type BpfInsn, CALL, CLASS, JMP, LD_IMM64, loadImmediate64, PSEUDO } from '../../bpf/instruction.js';
import { SystemError } from '../../ffi/libc.js';
import type { BpfError } from '../errno.js';
import type { FuncInfo } from '../kernel.js';
import { VerifierError, type WalkStatistics } from '../verifier_error.js';
import { Attr, bpf, Fd, nameOfErrno, objectInfo, tryBpf } from './bpf.js';
import { funcInfoBytes, INFO_BYTES, type KernelBtf, loadBtf } from './btf_object.js';
import { lockdownLevel } from './refusal.js';

/** Offsets in the attribute of BPF_PROG_LOAD. */
const LOAD = {
  type: 0,
  count: 4,
  insns: 8,
  license: 16,
  logLevel: 24,
  logSize: 28,
  log: 32,
  flags: 44,
  name: 48,
  attachType: 68,
  btf: 72,
  funcInfoSize: 76,
  funcInfo: 80,
  funcInfoCount: 88,
  lineInfoSize: 92,
  lineInfo: 96,
  lineInfoCount: 104,
  attachBtfId: 108,
  attachBtfFd: 112,
  fdArray: 120,
} as const;
/** BPF_F_SLEEPABLE */
export const SLEEPABLE = 1 << 4;

const CALL_OPCODE = CLASS.JMP | JMP.CALL;
const MOST_ATTEMPTS = 5;
const FIRST_LOG = 1 << 20;
const MOST_LOG = 1 << 28;

/** A program as the kernel is to have it. */
export interface LoadRequest {
  readonly name: string;
  /** `PROG_TYPE` */
  readonly type: number;
  /** `ATTACH` */
  readonly attachType: number;
  /** The function that it is for, and the BTF object that has it: 0 for the kernel's own. */
  readonly attachBtfId?: number;
  readonly attachBtfFd?: number;
  /** Maps by id, kernel functions by the machine's numbers. */
  readonly insns: readonly BpfInsn[];
  readonly types?: KernelBtf | undefined;
  readonly funcInfo?: readonly FuncInfo[];
  readonly sleepable?: boolean;
  readonly license: string;
  readonly logLevel?: number;
}

/** What stands behind the numbers in instructions. */
export interface Numbers {
  /** Throws EBADF for a map that is not of this machine. */
  mapFd(id: number): number;
  /** A kernel function's BTF id, and its module's BTF (`undefined`: the kernel's own). Throws ENOENT. */
  kernelFunction(number: number): { readonly id: number; readonly btfFd: number | undefined };
}

export interface LoadedProg {
  readonly fd: Fd;
  readonly log: string;
}

/** Loads a program. Throws `VerifierError` where the verifier refuses it, `SystemError` for anything else. */
export function loadProgram(request: LoadRequest, numbers: Numbers): LoadedProg {
  const btfFds: number[] = [];
  const insns = request.insns.map(insn => resolved(insn, numbers, btfFds));
  const code = encodeProgram(insns);
  const { types, funcInfo = [], logLevel = 0 } = request;
  using btf = types === undefined ? undefined : loadBtf(types.bytes, `program ${request.name}`);
  const attr = new Attr()
    .u32(LOAD.type, request.type)
    .u32(LOAD.count, code.length / 8)
    .pointer(LOAD.insns, code)
    .pointer(LOAD.license, Buffer.from(`${request.license}\0`))
    .u32(LOAD.flags, request.sleepable ? SLEEPABLE : 0)
    .name(LOAD.name, request.name)
    .u32(LOAD.attachType, request.attachType)
    .u32(LOAD.attachBtfId, request.attachBtfId ?? 0)
    .u32(LOAD.attachBtfFd, request.attachBtfFd ?? 0);
  // The first element is the kernel's own types, by convention.
  if (btfFds.length > 0) attr.pointer(LOAD.fdArray, Buffer.from(Int32Array.from([0, ...btfFds]).buffer));
  if (btf !== undefined && types !== undefined) {
    attr.u32(LOAD.btf, btf.number);
    if (funcInfo.length > 0)
      attr
        .u32(LOAD.funcInfoSize, INFO_BYTES.func)
        .pointer(LOAD.funcInfo, funcInfoBytes(funcInfo))
        .u32(LOAD.funcInfoCount, funcInfo.length);
    if (funcInfo.length > 0 && types.lines.length > 0)
      attr
        .u32(LOAD.lineInfoSize, INFO_BYTES.line)
        .pointer(LOAD.lineInfo, types.lines)
        .u32(LOAD.lineInfoCount, types.lines.length / INFO_BYTES.line);
  }
  if (logLevel > 0) return loadWithLog(attr, logLevel, request);
  try {
    return { fd: new Fd(loadUndisturbed(attr)), log: '' };
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    return loadWithLog(attr, 1, request);
  }
}

/** The verifier gives up with EAGAIN where a signal comes meanwhile: it is asked again, as often as libbpf does. */
function loadUndisturbed(attr: Attr): number {
  for (let attempt = 1; attempt < MOST_ATTEMPTS; attempt++) {
    const fd = tryBpf('PROG_LOAD', attr, 'EAGAIN');
    if (fd !== undefined) return fd;
  }
  return bpf('PROG_LOAD', attr);
}

/** Asks again with a larger log where it did not fit. */
function loadWithLog(attr: Attr, level: number, request: LoadRequest): LoadedProg {
  for (let size = FIRST_LOG; ; size *= 4) {
    const log = Buffer.alloc(size);
    attr.u32(LOAD.logLevel, level).u32(LOAD.logSize, size).pointer(LOAD.log, log);
    const text = (): string => log.toString('latin1', 0, Math.max(0, log.indexOf(0)));
    try {
      return { fd: new Fd(loadUndisturbed(attr)), log: text() };
    } catch (cause) {
      if (!(cause instanceof SystemError)) throw cause;
      const code = nameOfErrno(cause.errno);
      if (code === 'ENOSPC' && size < MOST_LOG) continue;
      if (text().trim() === '') throw cause;
      throw refusalOf(text(), request, code);
    }
  }
}

/** The verifier's last words, in the form that ours has: `insn N: sentence`. */
function refusalOf(log: string, request: LoadRequest, code: BpfError['code']): VerifierError {
  const lines = log.trimEnd().split('\n');
  // Newer kernels explain at length behind the sentence.
  const explained = lines.findIndex(line => line.startsWith('Verification failed'));
  const told = (explained < 0 ? lines : lines.slice(0, explained)).filter(
    line =>
      line.trim() !== '' &&
      !/^(processed \d+ insns|verification time|stack depth|max_states|subprog \d+ \()/.test(line),
  );
  const last = told.at(-1)?.trim();
  const sentence = last === undefined ? afterVerifying(request) : `${last}${lockedDown(last)}`;
  const at = told
    .slice(0, -1)
    .map(line => /^\s*(\d+): \([0-9a-f]{2}\)/.exec(line)?.[1])
    .findLast(slot => slot !== undefined);
  return new VerifierError(
    code,
    at === undefined ? sentence : `insn ${at}: ${sentence}`,
    log,
    statisticsOf(log),
  );
}

/** How far the kernel's walk came; `undefined` where it never began. */
export function statisticsOf(log: string): WalkStatistics | undefined {
  const found = /processed (\d+) insns .*total_states (\d+) peak_states (\d+)/.exec(log);
  if (found === null) return undefined;
  const [processed, totalStates, peakStates] = found.slice(1).map(Number);
  const micros = /verification time (\d+) usec/.exec(log)?.[1];
  return { processed, totalStates, peakStates, restarts: 0, timeMs: Number(micros ?? 0) / 1000 };
}

/** The kernel takes helpers that read its memory for ones that there are not, where it is locked down. */
function lockedDown(sentence: string): string {
  const reads = /helper bpf_probe_read|unknown func bpf_probe_read/.test(sentence);
  if (!reads || lockdownLevel() !== 'confidentiality') return '';
  return ': this kernel is locked down (confidentiality), and no program may read its memory: start it without lockdown';
}

/** What is refused without a word. */
function afterVerifying({ name, insns }: LoadRequest): string {
  const calls = insns.some(
    ({ opcode, src, imm }) => opcode === CALL_OPCODE && src === CALL.HELPER && imm === HELPER.tail_call,
  );
  return calls
    ? `program ${name} is good, but may not call the programs of its array: all of them must be for functions of one prototype`
    : `program ${name} is good, but the kernel refuses it and does not say why`;
}

/** Numbers of the machine as those of the kernel; offsets in `fd_array` count from 1. */
function resolved(insn: BpfInsn, numbers: Numbers, btfFds: number[]): BpfInsn {
  if (insn.opcode === CALL_OPCODE && insn.src === CALL.KFUNC) {
    const { id, btfFd } = numbers.kernelFunction(insn.imm);
    if (btfFd === undefined) return { ...insn, imm: id, offset: 0 };
    let index = btfFds.indexOf(btfFd);
    if (index < 0) index = btfFds.push(btfFd) - 1;
    return { ...insn, imm: id, offset: index + 1 };
  }
  if (insn.opcode !== LD_IMM64) return insn;
  const value = insn.imm64 ?? 0n;
  const low = Number(value & 0xffff_ffffn);
  if (insn.src === PSEUDO.MAP_FD) return loadImmediate64(insn.dst, insn.src, BigInt(numbers.mapFd(low)));
  if (insn.src === PSEUDO.MAP_VALUE)
    return loadImmediate64(insn.dst, insn.src, (value & ~0xffff_ffffn) | BigInt(numbers.mapFd(low)));
  return insn;
}

/** Offsets in `struct bpf_prog_info`. */
const INFO = {
  id: 4,
  jitedLength: 16,
  xlatedLength: 20,
  runTimeNs: 192,
  runCount: 200,
  recursionMisses: 208,
  size: 232,
} as const;

export interface ProgInfo {
  readonly id: number;
  readonly jitedSize: number;
  readonly runTimeNs: bigint;
  readonly runCount: bigint;
  /** Runs that did not happen: the program ran on that CPU already. */
  readonly recursionMisses: bigint;
}

/** `BPF_OBJ_GET_INFO_BY_FD` of a program. */
export function progInfo(fd: number): ProgInfo {
  const info = objectInfo(fd, Buffer.alloc(INFO.size));
  return {
    id: info.readUInt32LE(INFO.id),
    jitedSize: info.readUInt32LE(INFO.jitedLength),
    runTimeNs: info.readBigUInt64LE(INFO.runTimeNs),
    runCount: info.readBigUInt64LE(INFO.runCount),
    recursionMisses: info.readBigUInt64LE(INFO.recursionMisses),
  };
}
