/**
 * The kernel's own BPF as a peer: the same counting program on uprobes, through bpf(2) and perf_event_open(2). Says why
 * where this kernel refuses.
 */

import { existsSync, readFileSync } from 'node:fs';
import { encodeProgram } from '../bpf/encoding.js';
import type { BpfInsn } from '../bpf/instruction.js';
import { MAP_TYPE } from '../bpf/map_type.js';
import { addressOf, SYS, SystemError, systemCall } from '../ffi/libc.js';
import { errnoName } from '../kernel/errno.js';
import { countProgram } from '../tools/count.js';
import { countPerThreadProgram } from './our_machine.js';
import { NotHere } from './row.js';

const SYS_BPF = 321;
const SYS_PERF_EVENT_OPEN = 298;
/** linux/bpf.h: commands, types, attach types, flags. */
const BPF = {
  MAP_CREATE: 0,
  MAP_LOOKUP_ELEM: 1,
  PROG_LOAD: 5,
  LINK_CREATE: 28,
  PROG_TYPE_KPROBE: 2,
  PERF_EVENT: 41,
  TRACE_UPROBE_MULTI: 48,
  F_UPROBE_MULTI_RETURN: 1,
} as const;
const ATTR_BYTES = 128;
/** Offsets in `union bpf_attr` of BPF_PROG_LOAD and BPF_LINK_CREATE. */
const LOAD = { type: 0, count: 4, insns: 8, license: 16, attachType: 68 } as const;
const LINK = { prog: 0, target: 4, attachType: 8, cookie: 16 } as const;
const MULTI = { path: 16, offsets: 24, cookies: 40, count: 48, flags: 52, pid: 56 } as const;
/** linux/perf_event.h */
const PERF_ATTR_BYTES = 136;
const PERF = { type: 0, size: 4, config: 8, period: 16, path: 56, offset: 64 } as const;
const PERF_FLAG_FD_CLOEXEC = 8;
const UPROBE = '/sys/bus/event_source/devices/uprobe';
const RETPROBE = 1n;

/** One file's functions, by their offsets in it, with a cookie each. */
export interface FileOffsets {
  readonly path: string;
  readonly offsets: readonly number[];
  readonly cookies: readonly number[];
}

function bpf(name: string, command: number, attr: Buffer): number {
  return Number(systemCall(`bpf(${name})`, SYS_BPF, command, addressOf(attr), attr.length));
}

function close(fd: number): void {
  systemCall('close', SYS.close, fd);
}

/** `work`, whose refusal by the kernel is a reason for a row to be left out. */
function here<T>(work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    throw new NotHere(
      `the kernel refuses ${cause.call} (${errnoName(cause.errno) ?? `errno ${cause.errno}`})`,
    );
  }
}

/** CPUs that the kernel has values for, from a list such as 0-3,8. */
function possibleCpus(): number {
  const list = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim();
  return Math.max(...list.split(/[-,]/).map(Number)) + 1;
}

/** The counting program in the kernel, and what it is attached to. */
export class KernelCounter implements Disposable {
  readonly #map: number;
  /** Values of a key: one, or one for each CPU. */
  readonly #values: number;
  readonly #insns: (map: { readonly id: number }) => BpfInsn[];
  readonly #programs = new Map<number, number>();
  #links: number[] = [];

  /** `perThread`: by a map with a value for each CPU, without a lock. */
  constructor(slots: number, perThread = false) {
    this.#values = perThread ? possibleCpus() : 1;
    this.#insns = perThread ? countPerThreadProgram : countProgram;
    this.#map = here(() => {
      const create = Buffer.alloc(ATTR_BYTES);
      [perThread ? MAP_TYPE.PERCPU_ARRAY : MAP_TYPE.ARRAY, 4, 8, slots].forEach((word, i) => {
        create.writeUInt32LE(word, i * 4);
      });
      return bpf('BPF_MAP_CREATE', BPF.MAP_CREATE, create);
    });
  }

  /** Programs for a multi-link are loaded as such. */
  #program(attachType: number): number {
    let fd = this.#programs.get(attachType);
    if (fd === undefined) {
      const insns = Buffer.from(encodeProgram(this.#insns({ id: this.#map })));
      const license = Buffer.from('GPL\0');
      const load = Buffer.alloc(ATTR_BYTES);
      load.writeUInt32LE(BPF.PROG_TYPE_KPROBE, LOAD.type);
      load.writeUInt32LE(insns.length / 8, LOAD.count);
      load.writeBigUInt64LE(addressOf(insns), LOAD.insns);
      load.writeBigUInt64LE(addressOf(license), LOAD.license);
      load.writeUInt32LE(attachType, LOAD.attachType);
      fd = bpf('BPF_PROG_LOAD', BPF.PROG_LOAD, load);
      this.#programs.set(attachType, fd);
    }
    return fd;
  }

  /** One uprobe or uretprobe on the function at `offset` of `path` in process `pid`. */
  attach(pid: number, path: string, offset: number, cookie: number, atReturn: boolean): void {
    if (!existsSync(UPROBE)) throw new NotHere('this kernel has no uprobes');
    here(() => {
      const file = Buffer.from(`${path}\0`);
      const event = Buffer.alloc(PERF_ATTR_BYTES);
      event.writeUInt32LE(Number(readFileSync(`${UPROBE}/type`, 'utf8')), PERF.type);
      event.writeUInt32LE(PERF_ATTR_BYTES, PERF.size);
      event.writeBigUInt64LE(atReturn ? RETPROBE : 0n, PERF.config);
      event.writeBigUInt64LE(1n, PERF.period);
      event.writeBigUInt64LE(addressOf(file), PERF.path);
      event.writeBigUInt64LE(BigInt(offset), PERF.offset);
      const flags = PERF_FLAG_FD_CLOEXEC;
      const fd = systemCall('perf_event_open', SYS_PERF_EVENT_OPEN, addressOf(event), pid, -1, -1, flags);
      this.#links.push(Number(fd));
      const link = Buffer.alloc(ATTR_BYTES);
      link.writeUInt32LE(this.#program(0), LINK.prog);
      link.writeUInt32LE(Number(fd), LINK.target);
      link.writeUInt32LE(BPF.PERF_EVENT, LINK.attachType);
      link.writeBigUInt64LE(BigInt(cookie), LINK.cookie);
      this.#links.push(bpf('BPF_LINK_CREATE', BPF.LINK_CREATE, link));
    });
  }

  /** One link on many functions of one file. */
  attachMulti(pid: number, { path, offsets, cookies }: FileOffsets, atReturn: boolean): void {
    here(() => {
      const file = Buffer.from(`${path}\0`);
      const words = (values: readonly number[]): Buffer =>
        Buffer.from(BigUint64Array.from(values, value => BigInt(value)).buffer);
      const at = words(offsets);
      const given = words(cookies);
      const link = Buffer.alloc(ATTR_BYTES);
      link.writeUInt32LE(this.#program(BPF.TRACE_UPROBE_MULTI), LINK.prog);
      link.writeUInt32LE(BPF.TRACE_UPROBE_MULTI, LINK.attachType);
      link.writeBigUInt64LE(addressOf(file), MULTI.path);
      link.writeBigUInt64LE(addressOf(at), MULTI.offsets);
      link.writeBigUInt64LE(addressOf(given), MULTI.cookies);
      link.writeUInt32LE(offsets.length, MULTI.count);
      link.writeUInt32LE(atReturn ? BPF.F_UPROBE_MULTI_RETURN : 0, MULTI.flags);
      link.writeUInt32LE(pid, MULTI.pid);
      this.#links.push(bpf('BPF_LINK_CREATE', BPF.LINK_CREATE, link));
    });
  }

  /** Takes every probe away. */
  detach(): void {
    for (const fd of this.#links.toReversed()) close(fd);
    this.#links = [];
  }

  /** What was counted under a cookie. */
  count(cookie: number): number {
    const key = Buffer.alloc(4);
    const values = Buffer.alloc(8 * this.#values);
    key.writeUInt32LE(cookie);
    const attr = Buffer.alloc(ATTR_BYTES);
    attr.writeUInt32LE(this.#map, 0);
    attr.writeBigUInt64LE(addressOf(key), 8);
    attr.writeBigUInt64LE(addressOf(values), 16);
    bpf('BPF_MAP_LOOKUP_ELEM', BPF.MAP_LOOKUP_ELEM, attr);
    let sum = 0n;
    for (let at = 0; at < values.length; at += 8) sum += values.readBigUInt64LE(at);
    return Number(sum);
  }

  [Symbol.dispose](): void {
    this.detach();
    for (const fd of this.#programs.values()) close(fd);
    close(this.#map);
  }
}
