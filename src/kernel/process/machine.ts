/**
 * A live process as a machine: the kernel half that bpf(2) would be. It owns what stands in the process (shared
 * memory, maps, programs, hooks, the loader notice) and takes all of it away again.
 */

import { sleepHere } from '../../ffi/libc.js';
import type { TracedProcess } from '../../process/process.js';
import type { SelectorSet } from '../../process/symbols/selector.js';
import { Assembler } from '../../x86/assembler.js';
import { BpfError } from '../errno.js';
import type {
  BpfMap,
  BpfProg,
  Kernel,
  LinkCreateAttr,
  MapCreateAttr,
  ProgLoadAttr,
  TargetCheck,
  TargetFunction,
  TracingMultiLink,
} from '../kernel.js';
import { PreparedText } from './ftrace/text_edit.js';
import { compileProgram } from './jit/compile.js';
import { Hooks } from './link/hooks.js';
import { MultiLink } from './link/multi_link.js';
import { OPAQUE_ARGS } from './link/slots.js';
import { findNoticePlaces, LoaderNotice } from './loader_notice.js';
import { createMap, type BpfMap as ProcessMap } from './maps/map.js';
import { emitMapRoutines, type MapRoutines } from './maps/routines.js';
import { type OpenMark, openMark } from './open_mark.js';
import type { LoadedProgram } from './program.js';
import { CodeRegion } from './region/code_region.js';
import { DATA_REGION_BYTES, DataArena } from './region/data_arena.js';
import { planDataAddress, SharedRegion } from './region/region.js';
import { repairLeftovers } from './repair.js';
import { type Stop, Stopper } from './stopper.js';
import { type ProcessTarget, Targets } from './targets.js';
import { verifyProgram } from './verifier/verifier.js';

/** Room for programs, map routines and the loader notice. */
const PROGRAM_REGION_BYTES = 512 << 10;

export class ProcessKernel implements Kernel {
  readonly process: TracedProcess;
  readonly #stopper: Stopper;
  readonly #targets: Targets;
  readonly #arena: DataArena;
  readonly #code: CodeRegion;
  readonly #routines: ReadonlyMap<keyof MapRoutines, bigint>;
  readonly #notice: LoaderNotice | undefined;
  readonly #mark: OpenMark;
  readonly #hooks: Hooks;
  readonly #maps = new Map<number, ProcessMap>();
  readonly #links = new Set<MultiLink>();
  #nextId = 1;
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
    this.#routines = this.#emitRoutines();
    this.#hooks = new Hooks(this.#stopper, this.#targets, this.#arena);
    this.#hooks.addRegion(this.#code);
    for (const { address } of places) this.#hooks.reserved.add(address);
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

  #emitRoutines(): ReadonlyMap<keyof MapRoutines, bigint> {
    const a = new Assembler();
    const labels = emitMapRoutines(a);
    const block = this.#code.alloc(a.length);
    const at = this.#code.addressOf(block);
    this.#code.bytesOf(block).set(a.finish(at));
    const names = Object.keys(labels) as (keyof MapRoutines)[];
    return new Map(names.map(name => [name, at + BigInt(a.offsetOf(labels[name]))]));
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
   * is closed. Rejects with what `changed` throws.
   */
  async watchModules(changed: () => void): Promise<void> {
    await this.#notice?.watch(() => {
      if (this.void) return;
      this.refresh();
      changed();
    });
  }

  /** Reads the modules again; targets in modules that are gone leave their links. */
  refresh(): void {
    this.#targets.refresh();
    this.#hooks.forgetGone();
  }

  mapCreate(attr: MapCreateAttr): BpfMap {
    const map = createMap(attr, this.#nextId++, this.#arena);
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
    const verified = verifyProgram(attr.insns, { attachType: attr.attachType, nargs: OPAQUE_ARGS, maps });
    const jited = compileProgram(verified, { maps, routine: name => this.#routines.get(name)! });
    const block = this.#code.alloc(jited.size);
    const address = this.#code.addressOf(block);
    this.#code.bytesOf(block).set(jited.place(address));
    const program: LoadedProgram = {
      id: this.#nextId++,
      name: attr.name,
      attachType: attr.attachType,
      accessedArgs: verified.accessedArgs,
      jitedSize: jited.size,
      address,
      clobbers: jited.clobbers,
    };
    return program;
  }

  linkCreate(attr: LinkCreateAttr): TracingMultiLink {
    const link = new MultiLink(this.#hooks, this.#nextId++, attr.prog, attr.skipInvalid ?? false);
    link.add(attr.targets);
    this.#links.add(link);
    return link;
  }

  functions(selectors: SelectorSet): ProcessTarget[] {
    return this.#targets.match(selectors);
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
    if (this.void) return;
    try {
      for (const link of this.#links) link.detach();
      const restore = this.#notice?.readRestore();
      // No thread comes into our code from here on; those that are in it leave it when they run a little.
      let quiet = this.#stopper.during(stop => {
        restore?.write(this.process, stop.tid);
        return this.#unmapIfQuiet(stop);
      }).value;
      for (let tries = 0; !quiet && tries < LEAVE_TRIES; tries++) {
        sleepHere(LEAVE_WAIT_MS << tries);
        quiet = this.#stopper.during(stop => this.#unmapIfQuiet(stop)).value;
      }
    } catch (cause) {
      // It ended or execed meanwhile: nothing of ours is left in it.
      if (!(cause instanceof BpfError) || !this.void) throw cause;
    }
  }

  /** Takes out of the process what no thread is in, nor will return to; else it stays, unused, and false is returned. */
  #unmapIfQuiet(stop: Stop): boolean {
    if (!this.#hooks.isQuiet(stop)) return false;
    stop.remote(remote => {
      for (const region of this.#hooks.regions) region.shared?.unmapRemote(remote);
      for (const region of this.#arena.regions) region.unmapRemote(remote);
    });
    return true;
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
