/**
 * A live process as a machine: the kernel half that bpf(2) would be. It owns what stands in the process (shared
 * memory, maps, programs, hooks, the loader notice) and takes all of it away again.
 */

import { HELPER } from '../../bpf/helpers.js';
import { isPerCpu } from '../../bpf/map_type.js';
import type { Btf } from '../../btf/btf.js';
import type { Module } from '../../process/image.js';
import type { TracedProcess } from '../../process/process.js';
import { moduleTypes, prototypeOf } from '../../process/symbols/prototypes.js';
import type { SelectorSet } from '../../process/symbols/selector.js';
import { BpfError } from '../errno.js';
import type {
  BpfMap,
  BpfProg,
  FunctionPrototype,
  Kernel,
  LinkCreateAttr,
  MapCreateAttr,
  MultiLinkCreateAttr,
  ProgLoadAttr,
  TargetCheck,
  TargetFunction,
  TracingLink,
  TracingMultiLink,
} from '../kernel.js';
import { NO_KERNEL } from '../no_kernel.js';
import { sitesOf } from './ftrace/module_sites.js';
import { PreparedText } from './ftrace/text_edit.js';
import { CycleScale } from './helpers/time.js';
import { compileProgram } from './jit/compile.js';
import { CALLER_SAVED } from './jit/register_map.js';
import { STATISTICS } from './jit/statistics.js';
import { programContext } from './link/context.js';
import { Hooks } from './link/hooks.js';
import type { Link } from './link/link.js';
import { MultiLink } from './link/multi_link.js';
import { PlainLink } from './link/tracing_link.js';
import { findNoticePlaces, LoaderNotice } from './loader_notice.js';
import { createMap, type BpfMap as ProcessMap } from './maps/map.js';
import { ProgArray } from './maps/prog_array.js';
import { lookUpNames } from './named_targets.js';
import { type OpenMark, openMark } from './open_mark.js';
import { type LoadedProgram, loadedProgram } from './program.js';
import { CodeRegion } from './region/code_region.js';
import { DATA_REGION_BYTES, DataArena } from './region/data_arena.js';
import { planDataAddress, SharedRegion } from './region/region.js';
import { repairLeftovers } from './repair.js';
import { Runtime } from './runtime.js';
import { type Stop, Stopper } from './stopper.js';
import { type ProcessTarget, Targets } from './targets.js';
import { POSSIBLE_CPUS } from './threads/layout.js';
import { type VerifiedProgram, verifyProgram } from './verifier/verifier.js';

/** Room for programs, map routines and the loader notice. */
const PROGRAM_REGION_BYTES = 512 << 10;

export class ProcessKernel implements Kernel {
  readonly names = NO_KERNEL;
  readonly process: TracedProcess;
  readonly #stopper: Stopper;
  readonly #targets: Targets;
  readonly #arena: DataArena;
  readonly #code: CodeRegion;
  readonly #runtime: Runtime;
  readonly #notice: LoaderNotice | undefined;
  readonly #mark: OpenMark;
  readonly #hooks: Hooks;
  readonly #maps = new Map<number, ProcessMap>();
  readonly #links = new Set<Link>();
  readonly #programs = new Set<LoadedProgram>();
  readonly #types = new Map<Module, Btf | undefined>();
  #nextId = 1;
  /** Per-CPU maps that threads look into for others, and those that programs have for each thread alone. */
  readonly #sharedPerCpu = new Set<number>();
  readonly #ownPerCpu = new Set<number>();
  /** Programs that are loaded are timed. */
  #cycles: CycleScale | undefined;
  #closed = false;

  /**
   * Opens a process: maps shared memory into it and watches its dynamic linker, in one stop. A process that stands
   * still (a command that was just started) stays so. Throws EPERM, ESRCH, EAGAIN with a sentence.
   */
  constructor(process: TracedProcess) {
    this.process = process;
    const standing = process.stopped.size > 0;
    if (!standing) {
      // Whether we may trace it at all is asked first: the sentence is clearer than that of a failed read.
      process.stopAll();
      process.resumeAll();
    }
    this.#stopper = new Stopper(process);
    repairLeftovers(process, this.#stopper);
    this.#targets = new Targets(this.#stopper);
    const places = findNoticePlaces(this.#targets);
    const { modules } = this.#targets;
    if (modules.length === 0 && !process.alive()) throw process.goneError();
    if (modules.length === 0) throw nothingToTrace(this.#targets, process.pid);
    // Places are all in one module: the linker, or the static program.
    const low = places[0]?.low ?? modules[0].start;
    const high = places[0]?.high ?? modules[0].end;
    this.#code = CodeRegion.plan(process, PROGRAM_REGION_BYTES, low, high, []);
    const dataAddress = planDataAddress(process, DATA_REGION_BYTES);

    const opened = this.#stopper.during(stop =>
      stop.remote(remote => {
        const data = SharedRegion.map(remote, process.task, 'data', dataAddress, DATA_REGION_BYTES);
        this.#code.map(remote, process.task);
        const arena = new DataArena(data, size => this.#mapData(size));
        const mark = openMark(arena);
        const notice = places.length === 0 ? undefined : new LoaderNotice(process, places, arena, this.#code);
        return { arena, notice, mark };
      }),
    ).value;
    this.#arena = opened.arena;
    this.#notice = opened.notice;
    this.#mark = opened.mark;
    this.#hooks = new Hooks(this.#stopper, this.#targets, this.#arena);
    this.#hooks.addRegion(this.#code);
    this.#hooks.isLoaded = program => this.#programs.has(program as LoadedProgram);
    this.#hooks.prototypeOf = target => this.prototypeOf(target);
    this.#hooks.onReturns = place => this.#mark.noteReturns(place);
    for (const { address } of places) this.#hooks.reserved.add(address);
    this.#runtime = new Runtime({
      stopper: this.#stopper,
      targets: this.#targets,
      arena: this.#arena,
      code: this.#code,
      isQuiet: stop => this.#hooks.isQuiet(stop),
      lookForQuiet: stop => this.#hooks.lookForQuiet(stop),
      grace: this.#hooks.grace,
      openReturns: () => this.#hooks.openReturns(),
    });
    if (this.#notice !== undefined) this.#watchLinker(this.#notice);
  }

  #watchLinker(notice: LoaderNotice): void {
    const text = PreparedText.read(this.process, notice.edits);
    if (text.modified.length > 0)
      throw new BpfError(
        'EBUSY',
        `another tracer has patched the dynamic linker of process ${this.process.pid}; end that first`,
      );
    this.#stopper.during(stop => text.write(this.process, stop.tid));
  }

  #mapData(size: number): SharedRegion {
    const address = planDataAddress(this.process, size);
    return this.#stopper.during(stop =>
      stop.remote(remote => SharedRegion.map(remote, this.process.task, 'data', address, size)),
    ).value;
  }

  /**
   * The program stands before its dynamic linker has loaded the libraries, and the linker will tell when it has; false
   * for a static program, whose code is all there.
   */
  get waitsForLinker(): boolean {
    const main = this.#targets.modules.find(m => m.isMain);
    return this.#notice !== undefined && main?.elf.interpreter !== undefined;
  }

  /** The program that this machine was opened on is gone: execed away, or ended. */
  get void(): boolean {
    return this.#stopper.void;
  }

  /**
   * Calls `changed` whenever the process has loaded or unloaded libraries, before their code runs, until the machine
   * is closed. Rejects with what `changed` throws. Before the first call of it libraries come and go unnoticed: nothing
   * in them is attached, and no thread that loads one is held.
   */
  async watchModules(changed: () => void): Promise<void> {
    await this.#notice?.watch(() => {
      if (this.void) return;
      this.refresh();
      changed();
    });
  }

  /** Reads the modules again: functions of modules that are gone leave their links, and those that came join. */
  refresh(): void {
    const { came, gone } = this.#targets.refresh();
    this.#hooks.forgetGone();
    this.#runtime.modulesChanged();
    for (const module of gone) this.#types.delete(module);
    const isGone = (address: bigint): boolean =>
      gone.some(({ text }) => text.some(({ start, end }) => address >= start && address < end));
    for (const link of this.#links) {
      if (link.detached) this.#links.delete(link);
      else if (gone.length > 0) link.forget(isGone);
    }
    // A static program tells when it has chosen what its IFUNCs are.
    const waits = [...this.#links].some(link => link.skipped.some(s => s.reason === 'ifunc-unresolved'));
    if (came.length === 0 && !waits) return;
    const find = (module: string, name: string): ProcessTarget | undefined =>
      this.#targets.named([name], owner => owner.name === module)[0];
    for (const link of this.#links) link.follow({ find });
  }

  set allowModifyReturn(selectors: SelectorSet | undefined) {
    this.#hooks.allowModifyReturn = selectors;
  }

  get possibleCpus(): number {
    return POSSIBLE_CPUS;
  }

  enableStats(): void {
    this.#cycles ??= new CycleScale();
  }

  /**
   * Whether the program's per-CPU maps are looked into by other threads. Throws EBUSY where it would be one that does so, and
   * a program that is loaded adds to them as if nobody did.
   */
  #sharesPerCpu({ name, sharesCpus }: ProgLoadAttr, verified: VerifiedProgram): boolean {
    const perCpu = verified.usedMaps.filter(map => isPerCpu(map.type));
    const looks = verified.usedHelpers.includes(HELPER.map_lookup_percpu_elem);
    const own = looks ? perCpu.find(map => this.#ownPerCpu.has(map.id)) : undefined;
    if (own !== undefined)
      throw new BpfError(
        'EBUSY',
        `program ${name} looks up values of other threads in map ${own.name}, which a program that is loaded has for each thread alone; load ${name} first`,
      );
    if (looks || sharesCpus === true) for (const { id } of perCpu) this.#sharedPerCpu.add(id);
    const shares = perCpu.some(map => this.#sharedPerCpu.has(map.id));
    if (!shares && [...verified.ownAtomics.values()].includes(true))
      for (const { id } of perCpu) this.#ownPerCpu.add(id);
    return shares;
  }

  mapCreate(attr: MapCreateAttr): BpfMap {
    const map = createMap(attr, this.#nextId++, this.#arena, {
      ...this.#runtime.mapSupport,
      isLoaded: program => this.#programs.has(program as LoadedProgram),
    });
    this.#maps.set(map.id, map);
    return map;
  }

  progLoad(attr: ProgLoadAttr): BpfProg {
    const maps = new Map<number, ProcessMap>();
    for (const { id, name } of attr.maps) {
      const map = this.#maps.get(id);
      if (map === undefined)
        throw new BpfError('EBADF', `program ${attr.name} names map ${name}, which is not of this machine`);
      maps.set(id, map);
    }
    const prototype =
      attr.target === undefined || attr.forAnyFunction ? undefined : this.prototypeOf(attr.target);
    const verified = verifyProgram(attr.insns, {
      attachType: attr.attachType,
      prototype,
      ...(attr.argumentWords === undefined ? {} : { nargs: attr.argumentWords, anyResult: true }),
      maps,
      btf: attr.btf,
      funcInfo: attr.funcInfo,
      lineInfo: attr.lineInfo,
      sleepable: attr.sleepable ?? false,
      logLevel: attr.logLevel ?? 0,
    });
    this.#runtime.prepare(verified);
    // Whom it calls by a tail call may read and change what any program may.
    const { tailCalls } = verified.needs;
    const context = programContext(verified);
    const kind = { name: attr.name, attachType: attr.attachType, context };
    if (tailCalls)
      for (const { id } of verified.usedMaps) {
        const map = maps.get(id);
        if (map instanceof ProgArray) map.accept(kind);
      }
    const sharesPerCpu = this.#sharesPerCpu(attr, verified);
    const missed = this.#arena.alloc(8);
    const scale = this.#cycles;
    const counters = scale && this.#arena.alloc(STATISTICS.size);
    const jited = compileProgram(verified, {
      ...this.#runtime.jitEnv(maps, missed.address),
      sharesPerCpu,
      ...(counters === undefined ? {} : { statistics: counters.address }),
    });
    const block = this.#code.alloc(jited.size);
    const address = this.#code.addressOf(block);
    const bytes = jited.place(address);
    this.#code.bytesOf(block).set(bytes);
    this.#runtime.addFaults(address, jited.faults);
    const used = [...maps.values()];
    for (const map of used) map.hold?.();
    const program = loadedProgram(
      {
        ...kind,
        id: this.#nextId++,
        accessedArgs: tailCalls ? [...context.args.keys()] : verified.accessedArgs,
        jitedSize: jited.size,
        ...(verified.log === undefined ? {} : { log: verified.log }),
        xlated: verified.insns,
        jited: { address, bytes, offsets: jited.offsets },
        address,
        tailEntry: address + BigInt(jited.tailEntry),
        clobbers: tailCalls ? CALLER_SAVED : jited.clobbers,
        needs: {
          stack: verified.needs.stack || tailCalls,
          record: verified.needs.record || tailCalls,
        },
        readsReturnValue: verified.readsReturnValue || tailCalls,
        ...(prototype === undefined ? {} : { prototype }),
        typedArgs: tailCalls ? [...context.args.keys()] : verified.typedArgs,
        typedResult: verified.typedResult || tailCalls,
      },
      {
        missed: missed.bytes,
        statistics: scale && counters && { counters: counters.bytes, scale },
        unload: ran => {
          this.#programs.delete(program);
          for (const link of this.#links) if (link.detached) this.#links.delete(link);
          this.#letTypesGo();
          if (this.void || this.#closed) return;
          const free = (): void => {
            this.#runtime.removeFaults(address, block.size);
            this.#code.free(block);
            this.#arena.free(missed);
            if (counters !== undefined) this.#arena.free(counters);
            for (const map of used) map.release?.();
          };
          // Nobody can be in what nothing led to.
          if (!ran) {
            free();
            return;
          }
          this.#hooks.grace.whenAlone(free);
          this.#runtime.expectQuiet();
        },
      },
    );
    this.#programs.add(program);
    return program;
  }

  prototypeOf(target: TargetFunction): FunctionPrototype | undefined {
    if (target.prototype !== undefined) return target.prototype;
    const known = this.#targets.get(target.address);
    const types = known === undefined ? undefined : this.#typesOf(known.owner);
    if (known === undefined || types === undefined) return undefined;
    // Of an IFUNC, what it chose: its own name is that of the function that chooses.
    const { elf, name } = known.owner;
    const code = sitesOf(elf, name).functionAt(known.fileAddress);
    return code && prototypeOf(types, code.aliases);
  }

  /** Types are kept while programs are loaded that were verified against some: more targets may be compared. */
  #typesOf(module: Module): Btf | undefined {
    if (this.#types.has(module)) return this.#types.get(module);
    const root = `/proc/${this.process.task}/root`;
    const types = moduleTypes(`${root}${module.path}`, { root });
    this.#types.set(module, types);
    return types;
  }

  #letTypesGo(): void {
    if ([...this.#programs].every(({ prototype }) => prototype === undefined)) this.#types.clear();
  }

  moduleTypes(module: string): Btf | undefined {
    const found = this.#targets.modules.find(m => m.name === module);
    return found && this.#typesOf(found);
  }

  /** Bytes of the shared memory that are in use: code (programs, trampolines, slots), and data. */
  get bytesInUse(): { readonly code: number; readonly data: number } {
    return {
      code: this.#hooks.regions.reduce((sum, region) => sum + region.inUse, 0),
      data: this.#arena.inUse,
    };
  }

  /** Whether a program is loaded that prints. */
  get mayPrint(): boolean {
    return this.#runtime.mayPrint;
  }

  readTrace(): string[] {
    return this.#runtime.readTrace().map(({ text }) => text);
  }

  linkCreate(attr: LinkCreateAttr): TracingLink;
  linkCreate(attr: MultiLinkCreateAttr): TracingMultiLink;
  linkCreate(attr: LinkCreateAttr | MultiLinkCreateAttr): TracingLink | TracingMultiLink {
    this.#hooks.checkLoaded(attr.prog);
    const id = this.#nextId++;
    if ('target' in attr) {
      const { prog, target, cookie = 0n } = attr;
      const link = new PlainLink(this.#hooks, id, prog);
      return this.#opened(link, () => link.open({ target, cookie }));
    }
    const { prog, skipInvalid = false, targets, pattern } = attr;
    const followed = pattern && { ...pattern, match: () => this.#targets.match(pattern.selectors) };
    const link = new MultiLink(this.#hooks, id, prog, skipInvalid, followed);
    return this.#opened(link, () => (targets === undefined ? link.open() : link.add(targets)));
  }

  #opened<L extends Link>(link: L, open: () => void): L {
    try {
      open();
    } catch (cause) {
      link.detach();
      throw cause;
    }
    this.#links.add(link);
    return link;
  }

  functions(selectors: SelectorSet): ProcessTarget[] {
    return this.#targets.match(selectors);
  }

  functionsNamed(names: readonly string[]): ProcessTarget[][] {
    return lookUpNames(names, this.#targets);
  }

  functionAt(address: bigint): ProcessTarget | undefined {
    return this.#targets.at(address);
  }

  check(targets: readonly TargetFunction[]): TargetCheck[] {
    const known = targets.map(target => this.#targets.get(target.address) ?? (target as ProcessTarget));
    const results = this.#hooks.check(known);
    return known.map((target, i) => {
      const result = results[i];
      if ('reason' in result) return { target, refused: result };
      const { address, length, kind } = result;
      return { target, site: { address: target.owner.bias + BigInt(address), length, kind } };
    });
  }

  modules(): string[] {
    return this.#targets.modules.map(m => m.name);
  }

  /** Detaches every link, gives the linker its bytes back and unmaps what is ours, if no thread is in it. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#mark.close();
    this.#notice?.close();
    if (this.void) {
      this.#runtime.abandon();
      return;
    }
    try {
      for (const link of this.#links) link.detach();
      const restore = this.#notice?.readRestore();
      // No thread comes into our code from here on; those that are in it leave it when they run a little.
      this.#stopper.during(stop => restore?.write(this.process, stop.tid));
      // Exceptions must see through return addresses of ours till there are none.
      if (!this.#hooks.watchesUnwinders || this.#inSomeStop(stop => this.#hooks.isQuiet(stop))) {
        this.#hooks.letUnwindersGo();
        this.#inSomeStop(stop => this.#unmapIfQuiet(stop));
      }
    } catch (cause) {
      // It ended or execed meanwhile: nothing of ours is left in it.
      if (!(cause instanceof BpfError) || (this.process.alive() && !this.void)) throw cause;
    } finally {
      this.#runtime.abandon();
    }
  }

  /** Stops the process until `work` can be done; false where it never can. */
  #inSomeStop(work: (stop: Stop) => boolean): boolean {
    for (let tries = 0; ; tries++) {
      if (this.#stopper.during(work).value) return true;
      if (tries === LEAVE_TRIES) return false;
      this.process.pause(LEAVE_WAIT_MS << tries);
    }
  }

  /** Takes out of the process what no thread is in, nor will return to; else it stays, unused, and false is returned. */
  #unmapIfQuiet(stop: Stop): boolean {
    if (!this.#hooks.isQuiet(stop) || !this.#runtime.isQuiet(stop)) return false;
    try {
      this.#unmap(stop);
    } catch (cause) {
      // It began to filter its system calls: all stays, unused.
      if (!(cause instanceof BpfError) || cause.code !== 'EPERM') throw cause;
    }
    return true;
  }

  #unmap(stop: Stop): void {
    // A handler of the program's may still lead to ours: then all stays.
    if (!this.#runtime.stopFaults(stop)) return;
    stop.remote(remote => {
      this.#runtime.unmapRemote(remote);
      this.#hooks.unmapPrivate(remote);
      for (const region of this.#hooks.regions) region.shared?.unmapRemote(remote);
      for (const region of this.#arena.regions) region.unmapRemote(remote);
    });
  }
}

/** How often a process that we leave is looked at for threads in code of ours, and how long after the first time. */
const LEAVE_TRIES = 9;
const LEAVE_WAIT_MS = 2;

function nothingToTrace({ unreadable }: Targets, pid: number): BpfError {
  const [first] = unreadable;
  return new BpfError(
    'ENOEXEC',
    first === undefined
      ? `process ${pid} runs no program of its own (a kernel thread?); it can't be traced`
      : first.why,
  );
}
