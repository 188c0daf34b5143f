/**
 * What programs find in the process besides maps: the routines of helpers and map operations, the table of threads, the
 * clocks, the trace log, unwinding tables, and the server of their faults. Each part is brought in when the first
 * program comes that needs it: a program that only counts brings none.
 */

import { HELPER, helperName } from '../../bpf/helpers.js';
import type { RemoteThread } from '../../process/remote.js';
import { Assembler, type Label, r8, rax, rdi, rdx } from '../../x86/assembler.js';
import { BpfError } from '../errno.js';
import { FaultServer } from './faults/fault_server.js';
import type { FaultFixup } from './faults/fixup.js';
import type { GracePeriod } from './grace.js';
import { emitMapHelperRoutines } from './helpers/map_helpers.js';
import { emitHelperRoutines, NEED_CLOCK, NEED_REFRESH, NEED_THREAD_ID } from './helpers/routines.js';
import { emitStackHelpers } from './helpers/stack.js';
import { Clocks } from './helpers/time.js';
import { emitRecordHelpers, emitTraceLogHelpers, NEED_TRACE_LOG } from './helpers/trace_routines.js';
import type { JitEnv, JitMap, RoutineName } from './jit/environment.js';
import type { MapSupport } from './maps/map.js';
import { emitMapRoutines, type MapRoutines } from './maps/routines.js';
import { TraceLog, type TraceRecord } from './maps/trace_log.js';
import type { CodeRegion } from './region/code_region.js';
import type { DataArena } from './region/data_arena.js';
import { planDataAddress } from './region/region.js';
import { type MapRing, RingRegion } from './region/ring_region.js';
import type { Stop, Stopper } from './stopper.js';
import type { Targets } from './targets.js';
import { readThreadIds } from './threads/thread_id.js';
import { Threads } from './threads/threads.js';
import type { ReturnPlace } from './trampoline/full.js';
import { emitSeeThrough } from './trampoline/return.js';
import { UnwindTable } from './unwind/table.js';
import type { VerifiedProgram } from './verifier/verifier.js';

/** Pieces of code that are emitted together. */
type Group = 'maps' | 'mapHelpers' | 'records' | 'traceLog' | 'helpers' | 'stack';

/** Which piece a helper's routine is in; all others are in `helpers`. */
const GROUPS: ReadonlyMap<number, Group> = new Map<number, Group>([
  ...group('mapHelpers', [
    HELPER.spin_lock,
    HELPER.spin_unlock,
    HELPER.task_storage_get,
    HELPER.task_storage_delete,
    HELPER.dynptr_from_mem,
    HELPER.dynptr_read,
    HELPER.dynptr_write,
    HELPER.dynptr_data,
  ]),
  ...group('records', [
    HELPER.ringbuf_output,
    HELPER.ringbuf_reserve,
    HELPER.ringbuf_submit,
    HELPER.ringbuf_discard,
    HELPER.ringbuf_query,
    HELPER.ringbuf_reserve_dynptr,
    HELPER.ringbuf_submit_dynptr,
    HELPER.ringbuf_discard_dynptr,
    HELPER.perf_event_output,
    HELPER.snprintf,
    HELPER.strtol,
    HELPER.strtoul,
  ]),
  ...group('traceLog', [...NEED_TRACE_LOG]),
  ...group('stack', [HELPER.get_stack, HELPER.get_stackid]),
]);

function group(name: Group, helpers: readonly number[]): [number, Group][] {
  return helpers.map(helper => [helper, name]);
}

/** How often names of threads are brought up to date while a program asks for them, ms. */
const REFRESH_MS = 50;
/** How often a moment without a thread in our code is looked for, when somebody waits for one, ms. */
const QUIET_MS = 250;
/** How often it is looked whether forked children are gone, ms. */
const CHILDREN_MS = 2000;

/** What the runtime needs of the machine. */
export interface RuntimeHost {
  readonly stopper: Stopper;
  readonly targets: Targets;
  readonly arena: DataArena;
  readonly code: CodeRegion;
  /** No thread of the stopped process is in code of ours, nor will return to it. */
  isQuiet(stop: Stop): boolean;
  /** Ends the grace period of what was retired, where no thread is in code of ours. */
  lookForQuiet(stop: Stop): void;
  readonly grace: GracePeriod;
  /** Prepares the process for return hooks, whose addresses a stack walk must see through. */
  openReturns(): ReturnPlace | undefined;
}

export class Runtime {
  readonly #host: RuntimeHost;
  readonly #routines = new Map<RoutineName, bigint>();
  readonly #emitted = new Set<Group>();
  readonly #rings: RingRegion[] = [];
  #threads: Threads | undefined;
  #faults: FaultServer | undefined;
  #clocks: Clocks | undefined;
  /** What was printed before the process was left, until it is read. */
  readonly #lastTrace: TraceRecord[] = [];
  #traceLog: TraceLog | undefined;
  #unwind: UnwindTable | undefined;
  #refreshing: NodeJS.Timeout | undefined;
  #quietTimer: NodeJS.Timeout | undefined;
  #whenQuiet: (() => void)[] = [];
  #netAlone = true;

  constructor(host: RuntimeHost) {
    this.#host = host;
  }

  /** What maps need of the process. */
  get mapSupport(): MapSupport {
    return {
      mapRing: this.#mapRing,
      whenQuiet: work => this.#later(work),
      retire: free => this.#later(free),
      threadAlive: tid => this.#threadAlive(tid),
    };
  }

  /** Brings in what `program` needs. Throws where the process can't have it, with a sentence. */
  prepare(program: VerifiedProgram): void {
    const { needs, usedHelpers } = program;
    const uses = (set: ReadonlySet<number>): boolean => usedHelpers.some(helper => set.has(helper));
    // A thread's id is beside its block: it takes no slot.
    const threads = needs.thread || needs.guard || needs.faults || needs.tailCalls;
    if (threads || uses(NEED_THREAD_ID)) this.#openThreads();
    if (uses(NEED_CLOCK) || uses(NEED_TRACE_LOG)) this.#openClocks(uses(NEED_CLOCK));
    if (uses(NEED_THREAD_ID)) this.#findThreadId(true);
    else if (uses(NEED_TRACE_LOG) || usedHelpers.includes(HELPER.task_storage_get)) this.#findThreadId(false);
    if (uses(NEED_REFRESH)) this.#keepFresh();
    if (uses(NEED_TRACE_LOG)) this.#openTraceLog();
    if (needs.stack) this.#openUnwind();
    if (needs.faults) this.#startFaults();
  }

  /** What the JIT is handed for a program that was prepared for; `missed` is where it counts runs that could not be. */
  jitEnv(maps: ReadonlyMap<number, JitMap>, missed: bigint): JitEnv {
    const env = { maps, routine: (name: RoutineName) => this.#routine(name), missed };
    return {
      ...env,
      ...(this.#threads === undefined ? {} : { thread: this.#threads.code }),
      ...(this.#faults === undefined ? {} : { tracer: this.#faults.words }),
    };
  }

  /** Makes the loads of a program's code at `address` known that may fault; before it can run. */
  addFaults(address: bigint, fixups: readonly FaultFixup[]): void {
    if (fixups.length === 0) return;
    this.#faults?.faults.add(address, fixups);
    this.#faults?.publish();
  }

  /** Forgets the loads of a program whose code goes. */
  removeFaults(address: bigint, size: number): void {
    this.#faults?.faults.remove(address, size);
    this.#faults?.publish();
  }

  /** Modules came or went. */
  modulesChanged(): void {
    this.#unwind?.update(this.#host.targets.modules);
  }

  /** Whether a program is there that prints. */
  get mayPrint(): boolean {
    return this.#traceLog !== undefined;
  }

  /** What programs printed since the last call. */
  readTrace(): TraceRecord[] {
    return [...this.#lastTrace.splice(0), ...(this.#traceLog?.read() ?? [])];
  }

  /** In every stop of a link's change: takes back what threads that are gone held, and tells who waits for quiet. */
  duringStop(stop: Stop, quiet: boolean): void {
    this.#threads?.reclaim(stop, quiet);
    if (quiet) this.#tellQuiet();
  }

  /** The process is ours no more: gone, or given back. Maps can still be read. */
  abandon(): void {
    this.#clocks?.close();
    clearInterval(this.#refreshing);
    clearTimeout(this.#quietTimer);
    this.#faults?.abandon();
    // Read once more, like the maps, after the end.
    this.#lastTrace.push(...this.readTrace());
    this.#traceLog?.close();
    this.#traceLog = undefined;
  }

  /** No thread of the stopped process is in the handler that stands behind its own. */
  isQuiet(stop: Stop): boolean {
    return this.#faults?.isQuiet(stop) ?? true;
  }

  /** Ends the serving of faults, in a stop in which no thread is in our code. False where our memory must stay. */
  stopFaults(stop: Stop): boolean {
    if (this.#faults?.active) this.#netAlone = this.#faults.stop(stop);
    return this.#netAlone;
  }

  /** Takes the runtime's own mappings out of the process. */
  unmapRemote(remote: RemoteThread): void {
    for (const ring of this.#rings) ring.unmapRemote(remote);
    this.#threads?.unmapRemote(remote);
  }

  // Parts

  #openThreads(): Threads {
    if (this.#threads !== undefined) return this.#threads;
    const { stopper, arena } = this.#host;
    const address = Threads.plan(stopper.process);
    this.#threads = stopper.during(stop => {
      const threads = stop.remote(remote => Threads.map(stopper.process, remote, arena, address));
      threads.checkThreadPointers(stop);
      threads.setAttached(stop.tid, false);
      return threads;
    }).value;
    return this.#threads;
  }

  #findThreadId(required: boolean): void {
    const threads = this.#openThreads();
    if (threads.threadIdOffset !== undefined) return;
    const { stopper } = this.#host;
    const offset = stopper.during(stop => threads.findThreadId(stop)).value;
    if (offset !== undefined || !required) return;
    throw new BpfError(
      'EOPNOTSUPP',
      `bpf_get_current_pid_tgid: the threads of process ${stopper.process.pid} do not have their ids where a C library keeps them (a program without one, or one that has not begun: attach with -p when it runs)`,
    );
  }

  #keepFresh(): void {
    const threads = this.#openThreads();
    threads.refresh();
    this.#refreshing ??= setInterval(() => threads.refresh(), REFRESH_MS).unref();
  }

  #openClocks(required: boolean): void {
    if (this.#clocks !== undefined) return;
    try {
      this.#clocks = new Clocks(this.#host.arena);
      this.#clocks.run();
    } catch (cause) {
      // What is printed has no time then.
      if (required || !(cause instanceof BpfError)) throw cause;
    }
  }

  #openTraceLog(): void {
    this.#traceLog ??= new TraceLog(this.#host.arena, this.#mapRing, {
      whenQuiet: work => this.#later(work),
      threadName: tid => this.#nameOf(tid),
    });
    this.#keepFresh();
  }

  #nameOf(tid: number): string | undefined {
    for (const [slot, owner] of this.#threads?.owners() ?? [])
      if (owner === tid) return this.#threads!.commOf(slot);
    return undefined;
  }

  /** Whether the process has a thread of this id (as it sees it itself), or had one when it ended. */
  #threadAlive(tid: number): boolean {
    const { process } = this.#host.stopper;
    return process.gone || !process.alive() || readThreadIds(process.pid).has(tid);
  }

  #openUnwind(): void {
    if (this.#unwind !== undefined) return;
    this.#unwind = new UnwindTable(this.#host.arena);
    this.modulesChanged();
  }

  #startFaults(): void {
    const { stopper, arena } = this.#host;
    this.#faults ??= new FaultServer(stopper, this.#openThreads(), arena);
    const server = this.#faults;
    if (!server.active) stopper.during(stop => server.start(stop));
  }

  readonly #mapRing: MapRing = size => {
    const { stopper } = this.#host;
    const traced = stopper.process;
    const address = planDataAddress(traced, 2 * size);
    const ring = stopper.during(stop =>
      stop.remote(remote => RingRegion.map(remote, traced.task, address, size)),
    ).value;
    this.#rings.push(ring);
    return { address: ring.address, size: ring.size, bytes: ring.bytes, free: () => {} };
  };

  /** Does `work` when no thread is in code of ours, before long. */
  #later(work: () => void): void {
    this.#whenQuiet.push(work);
    this.expectQuiet();
  }

  /** Looks for the end of the grace period before long. */
  expectQuiet(): void {
    this.#quietTimer ??= setTimeout(() => this.#lookForQuiet(), QUIET_MS).unref();
  }

  #lookForQuiet(): void {
    this.#quietTimer = undefined;
    const { stopper, grace } = this.#host;
    if (stopper.void) return;
    try {
      if (this.#whenQuiet.length > 0 || grace.waitsForQuiet)
        stopper.during(stop => {
          this.#host.lookForQuiet(stop);
          if (this.#whenQuiet.length > 0 && this.#host.isQuiet(stop)) this.#tellQuiet();
        });
      grace.reclaim();
    } catch (cause) {
      // It ended or execed meanwhile: whoever watches it sees that.
      if (!(cause instanceof BpfError)) throw cause;
      return;
    }
    if (this.#whenQuiet.length > 0 || grace.waitsForQuiet) this.expectQuiet();
    else if (grace.waitsForChildren)
      this.#quietTimer = setTimeout(() => this.#lookForQuiet(), CHILDREN_MS).unref();
  }

  #tellQuiet(): void {
    const waiting = this.#whenQuiet;
    this.#whenQuiet = [];
    for (const work of waiting) work();
  }

  // Routines

  #routine(name: RoutineName): bigint {
    let address = this.#routines.get(name);
    if (address === undefined) {
      this.#emit(groupOf(name));
      address = this.#routines.get(name);
    }
    if (address !== undefined) return address;
    const helper = Number(/^helper_(\d+)$/.exec(name)?.[1]);
    throw new BpfError(
      'EOPNOTSUPP',
      `${helperName(helper) ?? name} has no code here (helper ${helper}); leave it out`,
    );
  }

  #emit(which: Group): void {
    if (this.#emitted.has(which)) return;
    this.#emitted.add(which);
    const a = new Assembler();
    const { labels, fixups } = this.#emitGroup(a, which);
    const { code } = this.#host;
    const block = code.alloc(a.length);
    const at = code.addressOf(block);
    code.bytesOf(block).set(a.finish(at));
    for (const [name, label] of labels) this.#routines.set(name, at + BigInt(a.offsetOf(label)));
    this.addFaults(at, fixups);
  }

  #emitGroup(
    a: Assembler,
    which: Group,
  ): { labels: Iterable<[RoutineName, Label]>; fixups: readonly FaultFixup[] } {
    const named = (emitted: {
      routines: Map<`helper_${number}`, Label>;
      fixups: readonly FaultFixup[];
    }): { labels: Iterable<[RoutineName, Label]>; fixups: readonly FaultFixup[] } => ({
      labels: emitted.routines,
      fixups: emitted.fixups,
    });
    const thread = (): Threads['code'] => this.#openThreads().code;
    switch (which) {
      case 'maps': {
        const routines = emitMapRoutines(a);
        return { labels: Object.entries(routines) as [keyof MapRoutines, Label][], fixups: [] };
      }
      case 'mapHelpers':
        return named(emitMapHelperRoutines(a, { thread: thread() }));
      case 'records':
        return named(emitRecordHelpers(a));
      case 'traceLog':
        return named(
          emitTraceLogHelpers(a, {
            log: this.#traceLog!.address,
            time: this.#clocks === undefined ? undefined : this.#routine(`helper_${HELPER.ktime_get_ns}`),
            tid: this.#routine(`helper_${HELPER.get_current_pid_tgid}`),
          }),
        );
      case 'helpers':
        // The clocks' routines are among them: no program can ask for the time where there are none.
        if (this.#clocks === undefined) this.#openClocks(false);
        return named(
          emitHelperRoutines(a, {
            thread: thread(),
            ...(this.#clocks === undefined ? {} : { time: this.#clocks.address }),
          }),
        );
      case 'stack':
        return named(this.#emitStack(a));
    }
  }

  #emitStack(a: Assembler): { routines: Map<`helper_${number}`, Label>; fixups: FaultFixup[] } {
    const root = this.#unwind!.root;
    const returns = this.#host.openReturns();
    const stackMapStore = a.label();
    const originalReturn = returns === undefined ? undefined : emitOriginalReturn(a, returns);
    const emitted = emitStackHelpers(a, {
      root,
      stackMapStore,
      ...(originalReturn === undefined ? {} : { originalReturn }),
    });
    a.bind(stackMapStore);
    const store = this.#routine('stackMapStore');
    a.movImm64(rax, store);
    a.jmpReg(rax);
    return emitted;
  }
}

function groupOf(name: RoutineName): Group {
  const helper = /^helper_(\d+)$/.exec(name)?.[1];
  return helper === undefined ? 'maps' : (GROUPS.get(Number(helper)) ?? 'helpers');
}

/** What unwind/walk_code.ts calls for each return address: rdi = the stack word, rax = its value → the original in rax. */
function emitOriginalReturn(a: Assembler, { table, trampoline }: ReturnPlace): Label {
  const lost = a.label();
  a.align(16);
  const entry = a.here();
  a.mov(r8, rax);
  a.mov(rdx, rdi);
  emitSeeThrough(a, table, trampoline, lost);
  a.mov(rax, r8);
  a.ret();
  a.bind(lost);
  a.xor(rax, rax, 4);
  a.ret();
  return entry;
}
