/**
 * The running kernel as a machine: maps and programs through bpf(2), its own functions as targets.
 */

import { closeSync, constants, openSync, readFileSync, readSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { release } from 'node:os';
import { KFUNC, kfuncName, kfuncNumber } from '../../bpf/kfuncs.js';
import { HELPER } from '../../bpf/helpers.js';
import { CALL, CLASS, JMP } from '../../bpf/instruction.js';
import { isPerCpu, MAP_TYPE } from '../../bpf/map_type.js';
import type { Btf } from '../../btf/btf.js';
import type { SelectorSet } from '../../process/symbols/selector.js';
import { SystemError } from '../../ffi/libc.js';
import { BpfError } from '../errno.js';
import type {
  BpfLink,
  BpfMap,
  BpfProg,
  FunctionPrototype,
  Kernel,
  LinkCreateAttr,
  LinkTarget,
  MapCreateAttr,
  MultiLinkCreateAttr,
  ProgLoadAttr,
  TargetCheck,
  TargetFunction,
  TracingLink,
  TracingMultiLink,
} from '../kernel.js';
import { Attr, bpf, CMD, Fd, refusedBy } from './bpf.js';
import { KernelFunctions } from './functions.js';
import type { LinuxHost, LinuxOptions } from './host.js';
import { KERNEL_MODULE, KernelTypes } from './kernel_types.js';
import { NativeMultiLink } from './link/native.js';
import { PlainLink } from './link/tracing.js';
import { LinuxProg } from './linux_prog.js';
import { LinuxMap } from './map.js';
import { ModuleBtfs } from './module_btfs.js';
import { PerfEventMap } from './perf_event_map.js';
import { type LoadedProg, type LoadRequest, loadProgram, type Numbers } from './program.js';
import { RingBufferMap } from './ring_buffer_map.js';
import { TraceLog } from './trace_log.js';
import { readKconfig } from './kconfig.js';

/** Kernel functions that are the kernel's alone have numbers from here on: their BTF ids follow. */
const OWN_KFUNCS = 0x4000_0000;
const CALL_OPCODE = CLASS.JMP | JMP.CALL;
const PRINTING: ReadonlySet<number> = new Set([HELPER.trace_printk, HELPER.trace_vprintk]);

/** CPUs that the kernel has values for, from a list such as 0-3,8. */
export function possibleCpus(): number {
  const list = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim();
  return Math.max(...list.split(/[-,]/).map(Number)) + 1;
}

export class LinuxKernel implements Kernel, LinuxHost {
  readonly options: LinuxOptions;
  readonly possibleCpus = possibleCpus();
  readonly #maps = new Map<number, LinuxMap>();
  readonly #progs = new Set<LinuxProg>();
  readonly #links = new Set<BpfLink>();
  readonly #moduleBtfs = new ModuleBtfs();
  #types: KernelTypes | undefined;
  #functions: KernelFunctions | undefined;
  #kconfig: ReadonlyMap<string, bigint | string> | undefined;
  #stats: Fd | undefined;
  #log: TraceLog | undefined;
  #next = 1;
  #mayPrint = false;

  /** Nothing is asked of the kernel yet. */
  constructor(options: LinuxOptions = {}) {
    this.options = options;
  }

  get types(): KernelTypes {
    this.#types ??= KernelTypes.open();
    return this.#types;
  }
  get functions_(): KernelFunctions {
    this.#functions ??= new KernelFunctions(this.types);
    return this.#functions;
  }
}
