/**
 * The running kernel as a machine: maps and programs through bpf(2), its own functions as targets.
 */

import { HELPER } from '../../bpf/helpers.js';
import { CALL, CLASS, JMP } from '../../bpf/instruction.js';
import { MAP_TYPE } from '../../bpf/map_type.js';
import type { Btf } from '../../btf/btf.js';
import type { SelectorSet } from '../../process/symbols/selector.js';
import { BpfError } from '../errno.js';
import type {
  BpfLink,
  FunctionPrototype,
  Kernel,
  KernelNames,
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
import { Attr, bpf, Fd, refusedBy } from './bpf.js';
import type { ContextKernel } from './context/rewrite.js';
import { possibleCpus } from './cpus.js';
import { KernelFeatures } from './features.js';
import { KernelFunctions } from './functions.js';
import type { LinuxHost, LinuxOptions } from './host.js';
import { KERNEL_MODULE, KernelTypes } from './kernel_types.js';
import { PlainLink } from './link/tracing.js';
import { LinuxProg } from './linux_prog.js';
import { LinuxMap } from './map.js';
import { ModuleBtfs } from './module_btfs.js';
import { LinuxNames } from './names.js';
import { PerfEventMap } from './perf_event_map.js';
import { type LoadedProg, type LoadRequest, loadProgram, type Numbers } from './program.js';
import { RingBufferMap } from './ring_buffer_map.js';
import { TraceLog } from './trace_log.js';
import { linkMulti, loadMulti } from './ways.js';

const CALL_OPCODE = CLASS.JMP | JMP.CALL;
const PRINTING: ReadonlySet<number> = new Set([HELPER.trace_printk, HELPER.trace_vprintk]);

export class LinuxKernel implements Kernel {
  readonly possibleCpus = possibleCpus();
  /** Modules that are loaded later are not followed. */
  readonly growing = false;
  readonly #host: Host;
  readonly #maps = new Map<number, LinuxMap>();
  readonly #progs = new Set<LinuxProg>();
  readonly #links = new Set<BpfLink>();
  #stats: Fd | undefined;
  #log: TraceLog | undefined;
  #mayPrint = false;

  /** Nothing is asked of the kernel yet. */
  constructor(options: LinuxOptions = {}) {
    this.#host = new Host(options, this);
  }

  mapCreate(attr: MapCreateAttr): LinuxMap {
    const map = createMap(attr, this.possibleCpus);
    this.#maps.set(map.id, map);
    return map;
  }

  /** A map by its id. */
  map(id: number): LinuxMap | undefined {
    return this.#maps.get(id);
  }

  enableStats(): void {
    if (this.#stats !== undefined) return;
    try {
      // BPF_STATS_RUN_TIME
      this.#stats = new Fd(bpf('ENABLE_STATS', new Attr().u32(0, 0)));
    } catch (cause) {
      throw refusedBy(cause, 'to count the runs of programs');
    }
  }

  progLoad(attr: ProgLoadAttr): LinuxProg {
    const prog = new LinuxProg(this.#host, attr);
    try {
      if (attr.multi) loadMulti(this.#host, prog);
      else prog.load();
    } catch (cause) {
      prog.free();
      throw cause;
    }
    this.#mayPrint ||= attr.insns.some(
      ({ opcode, src, imm }) => opcode === CALL_OPCODE && src === CALL.HELPER && PRINTING.has(imm),
    );
    this.#progs.add(prog);
    return prog;
  }

  linkCreate(attr: LinkCreateAttr): TracingLink;
  linkCreate(attr: MultiLinkCreateAttr): TracingMultiLink;
  linkCreate(attr: LinkCreateAttr | MultiLinkCreateAttr): TracingLink | TracingMultiLink {
    const { prog } = attr;
    if (!(prog instanceof LinuxProg) || !this.#progs.has(prog))
      throw new BpfError('EBADF', `program ${prog.name} is not of this machine`);
    const link =
      'target' in attr
        ? new PlainLink(this.#host, prog, { target: attr.target, cookie: attr.cookie ?? 0n })
        : linkMulti(this.#host, prog, attr.skipInvalid ?? false, this.#targetsOf(attr));
    this.#links.add(link);
    return link;
  }

  /** Modules that are loaded later are not followed: the kernel tells nobody of them. */
  #targetsOf({ targets, pattern }: MultiLinkCreateAttr): readonly LinkTarget[] {
    if (targets !== undefined) return targets;
    return this.functions(pattern!.selectors).map(target => ({
      target,
      cookie: pattern!.cookie?.(target) ?? 0n,
    }));
  }

  functions(selectors: SelectorSet): TargetFunction[] {
    return this.#host.targets.functions(selectors);
  }
  functionsNamed(names: readonly string[]): TargetFunction[][] {
    return this.#host.targets.named(names);
  }
  functionAt(address: bigint): TargetFunction | undefined {
    return this.#host.targets.at(address);
  }
  modules(): string[] {
    return [...this.#host.targets.modules];
  }
  prototypeOf(target: TargetFunction): FunctionPrototype | undefined {
    return this.#host.targets.prototypeOf(target);
  }
  /** All modules' types continue the kernel's own. */
  moduleTypes(module: string): Btf | undefined {
    return this.#host.types.module(module);
  }

  /** A function of the kernel has no patch site that anybody is told of; the way says how it is attached. */
  check(targets: readonly TargetFunction[]): TargetCheck[] {
    return targets.map(target => {
      const refused = target.unresolved ?? this.#host.targets.check(target, 'fentry');
      if (refused !== undefined) return { target, refused };
      return { target, site: { address: target.address, length: 5, kind: 'ftrace' } };
    });
  }

  get names(): KernelNames {
    return this.#host.names;
  }

  get mayPrint(): boolean {
    return this.#mayPrint;
  }
  readTrace(): string[] {
    this.#log ??= TraceLog.open();
    return this.#log.read();
  }

  /** Detaches every link; maps can still be read, until `close`. */
  detach(): void {
    for (const link of this.#links) link.detach();
    this.#links.clear();
  }

  close(): void {
    this.detach();
    for (const prog of this.#progs) prog.free();
    this.#progs.clear();
    for (const map of this.#maps.values()) map.free();
    this.#maps.clear();
    this.#host.close();
    this.#stats?.close();
    this.#log?.close();
  }
}

function createMap(attr: MapCreateAttr, cpus: number): LinuxMap {
  if (attr.type === MAP_TYPE.RINGBUF) return new RingBufferMap(attr, cpus);
  if (attr.type === MAP_TYPE.PERF_EVENT_ARRAY) return new PerfEventMap(attr, cpus);
  return new LinuxMap(attr, cpus);
}

/** What programs and links need. */
class Host implements LinuxHost, Numbers {
  readonly options: LinuxOptions;
  readonly #machine: LinuxKernel;
  readonly names = new LinuxNames(() => this.types);
  readonly #btfs = new ModuleBtfs();
  #types: KernelTypes | undefined;
  #targets: KernelFunctions | undefined;
  #features: KernelFeatures | undefined;
  #next = 1;

  constructor(options: LinuxOptions, machine: LinuxKernel) {
    this.options = options;
    this.#machine = machine;
  }

  get types(): KernelTypes {
    this.#types ??= KernelTypes.open();
    return this.#types;
  }
  get targets(): KernelFunctions {
    this.#targets ??= new KernelFunctions(this.types);
    return this.#targets;
  }

  get contextKernel(): ContextKernel {
    return {
      kfunc: name => this.names.ownKfunc(name),
      types: this.types.vmlinux,
    };
  }

  get features(): KernelFeatures {
    this.#features ??= new KernelFeatures(this.types);
    return this.#features;
  }
  mapCreate(attr: MapCreateAttr): LinuxMap {
    return this.#machine.mapCreate(attr);
  }

  load(request: LoadRequest): LoadedProg {
    try {
      return loadProgram(request, this);
    } catch (cause) {
      throw cause instanceof BpfError ? cause : refusedBy(cause, `program ${request.name}`);
    }
  }

  mapFd(id: number): number {
    const map = this.#machine.map(id);
    if (map === undefined) throw new BpfError('EBADF', `map ${id} is not of this machine`);
    return map.fd.number;
  }

  kernelFunction(number: number): { readonly id: number; readonly btfFd: number | undefined } {
    return { id: this.names.kfuncId(number), btfFd: undefined };
  }

  btfFd(module: string): number {
    return module === KERNEL_MODULE ? 0 : this.#btfs.fd(module);
  }

  nextId(): number {
    return this.#next++;
  }

  close(): void {
    this.#btfs.close();
  }
}
