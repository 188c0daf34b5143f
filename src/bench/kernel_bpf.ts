/**
 * The kernel's own BPF as a peer: the same counting program on uprobes, through bpf(2) and perf_event_open(2). Says why
 * where this kernel refuses.
 */

import { existsSync, readFileSync } from 'node:fs';
import type { BpfInsn } from '../bpf/instruction.js';
import { MAP_TYPE } from '../bpf/map_type.js';
import { SystemError } from '../ffi/libc.js';
import { BpfError } from '../kernel/errno.js';
import { ATTACH, Attr, bpf, Fd, nameOfErrno, PROG_TYPE } from '../kernel/linux/bpf.js';
import { possibleCpus } from '../kernel/linux/cpus.js';
import { LinuxMap } from '../kernel/linux/map.js';
import { perfEventOpen } from '../kernel/linux/perf_event.js';
import { loadProgram } from '../kernel/linux/program.js';
import { countProgram } from '../tools/count.js';
import { LICENSE } from '../tools/license.js';
import { countPerThreadProgram } from './our_machine.js';
import { NotHere } from './row.js';

/** Offsets in the attribute of BPF_LINK_CREATE. */
const LINK = { prog: 0, target: 4, attachType: 8, cookie: 16 } as const;
const MULTI = { path: 16, offsets: 24, cookies: 40, count: 48, flags: 52, pid: 56 } as const;
const UPROBE_MULTI_RETURN = 1;
const UPROBE = '/sys/bus/event_source/devices/uprobe';
const RETPROBE = 1n;
const COUNT_BYTES = 8;

/** One file's functions, by their offsets in it, with a cookie each. */
export interface FileOffsets {
  readonly path: string;
  readonly offsets: readonly number[];
  readonly cookies: readonly number[];
}

/** `work`, whose refusal by the kernel is a reason for a row to be left out. */
function here<T>(work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (cause instanceof SystemError)
      throw new NotHere(`the kernel refuses ${cause.call} (${nameOfErrno(cause.errno)})`);
    throw cause instanceof BpfError ? new NotHere(cause.message) : cause;
  }
}

/** The counting program in the kernel, and what it is attached to. */
export class KernelCounter implements Disposable {
  readonly #map: LinuxMap;
  readonly #insns: BpfInsn[];
  readonly #programs = new Map<number, Fd>();
  #links: Fd[] = [];

  /** `perThread`: by a map with a value for each CPU, without a lock. */
  constructor(slots: number, perThread = false) {
    this.#map = here(
      () =>
        new LinuxMap(
          {
            type: perThread ? MAP_TYPE.PERCPU_ARRAY : MAP_TYPE.ARRAY,
            name: 'counts',
            keySize: 4,
            valueSize: COUNT_BYTES,
            maxEntries: slots,
          },
          possibleCpus(),
        ),
    );
    this.#insns = (perThread ? countPerThreadProgram : countProgram)(this.#map);
  }

  /** Programs for a multi-link are loaded as such. */
  #program(attachType: number): number {
    let fd = this.#programs.get(attachType);
    if (fd === undefined) {
      const request = {
        name: 'count',
        type: PROG_TYPE.KPROBE,
        attachType,
        insns: this.#insns,
        license: LICENSE,
      };
      const none = (number: number): never => {
        throw new BpfError('ENOENT', `there is no kernel function ${number}`);
      };
      fd = loadProgram(request, { mapFd: () => this.#map.fd.number, kernelFunction: none }).fd;
      this.#programs.set(attachType, fd);
    }
    return fd.number;
  }

  /** One uprobe or uretprobe on the function at `offset` of `path` in process `pid`. */
  attach(pid: number, path: string, offset: number, cookie: number, atReturn: boolean): void {
    if (!existsSync(UPROBE)) throw new NotHere('this kernel has no uprobes');
    here(() => {
      const event = {
        type: Number(readFileSync(`${UPROBE}/type`, 'utf8')),
        config: atReturn ? RETPROBE : 0n,
        path,
        offset: BigInt(offset),
      };
      const fd = perfEventOpen(event, pid, -1);
      this.#links.push(fd);
      const link = new Attr()
        .u32(LINK.prog, this.#program(0))
        .u32(LINK.target, fd.number)
        .u32(LINK.attachType, ATTACH.PERF_EVENT)
        .u64(LINK.cookie, BigInt(cookie));
      this.#links.push(new Fd(bpf('LINK_CREATE', link)));
    });
  }

  /** One link on many functions of one file. */
  attachMulti(pid: number, { path, offsets, cookies }: FileOffsets, atReturn: boolean): void {
    here(() => {
      const link = new Attr()
        .u32(LINK.prog, this.#program(ATTACH.TRACE_UPROBE_MULTI))
        .u32(LINK.attachType, ATTACH.TRACE_UPROBE_MULTI)
        .pointer(MULTI.path, Buffer.from(`${path}\0`))
        .words(MULTI.offsets, offsets.map(BigInt))
        .words(MULTI.cookies, cookies.map(BigInt))
        .u32(MULTI.count, offsets.length)
        .u32(MULTI.flags, atReturn ? UPROBE_MULTI_RETURN : 0)
        .u32(MULTI.pid, pid);
      this.#links.push(new Fd(bpf('LINK_CREATE', link)));
    });
  }

  /** Takes every probe away. */
  detach(): void {
    for (const fd of this.#links.toReversed()) fd.close();
    this.#links = [];
  }

  /** What was counted under a cookie. */
  count(cookie: number): number {
    const key = Buffer.alloc(4);
    key.writeUInt32LE(cookie);
    const values = Buffer.from(this.#map.lookup(key) ?? []);
    let sum = 0n;
    for (let at = 0; at < values.length; at += COUNT_BYTES) sum += values.readBigUInt64LE(at);
    return Number(sum);
  }

  [Symbol.dispose](): void {
    this.detach();
    for (const fd of this.#programs.values()) fd.close();
    this.#map.free();
  }
}
