/**
 * BPF objects over all machines of a session: loaded into each, attached as libraries come, read live and at the end.
 * What maps and variables hold goes along when the process execs another program.
 */

import { MAP_TYPE } from '../bpf/map_type.js';
import { BpfError } from '../kernel/errno.js';
import type { Kernel, SkippedFunction, TracingMultiLink, Way } from '../kernel/kernel.js';
import type { SessionTool, TracingSession } from '../kernel/session.js';
import type { BtfValue } from '../libbpf/codec.js';
import type { BpfObject, ObjectSnapshot } from '../libbpf/object.js';
import type { ObjectMap } from '../libbpf/object_map.js';
import type { ObjectProgram } from '../libbpf/object_program.js';
import type { Pins } from '../libbpf/pins.js';
import type { RingBuffer } from '../libbpf/ring_buffer.js';
import type { SelectorSet } from '../process/symbols/selector.js';
import { formatEntries, type MapReport, readMap } from './object_report.js';
import { waysOf } from './selector_tool.js';
import type { AddressNames } from './symbolize.js';

/** Records that are taken before others have their turn. */
const BATCH = 4096;
const WAIT_MS = 1000;
/** How often printed lines are looked for, ms. */
const TRACE_MS = 50;
/** Records that are kept for `--json`, of each buffer. */
const MAX_KEPT = 65_536;

/** What became of one program of an object. */
export interface ProgramReport {
  readonly name: string;
  readonly section: string;
  attached: number;
  /** By which way it is on its functions; left out where it is on none. */
  way?: Way;
  readonly skipped: SkippedFunction[];
  missed: bigint;
  /** Runs, and their time in all, ns; where they were to be counted. */
  runs: bigint;
  runTimeNs: bigint;
  /** Not to be loaded, unless asked for. */
  readonly left: boolean;
}

export interface ObjectToolOptions {
  readonly pins: Pins;
  /** Functions whose result modify-return programs may change. */
  readonly allowModify: SelectorSet | undefined;
  /** The verifier's. */
  readonly logLevel: number;
  /** Programs' runs are counted, and timed. */
  readonly stats: boolean;
  readonly symbolizer: AddressNames;
  /** A line that a program printed, or a record as text. */
  line(text: string): void;
  /** Keep records as values, for the end. */
  readonly keep: boolean;
  note(text: string): void;
}

export class ObjectTool implements SessionTool {
  readonly objects: readonly BpfObject[];
  readonly #options: ObjectToolOptions;
  readonly #programs = new Map<string, ProgramReport>();
  #carried: readonly ObjectSnapshot[] = [];
  #rings: { readonly map: ObjectMap; readonly ring: RingBuffer }[] = [];
  #kernel: Kernel | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** What programs print can't be read here. */
  #printsUnseen = false;
  #failure: unknown;
  readonly #kept = new Map<string, BtfValue[]>();
  readonly #dropped = new Map<string, bigint>();
  #maps: readonly MapReport[] = [];
  /** Set when there is one: a command that can't be traced from its start is ended. */
  session: TracingSession | undefined;

  constructor(objects: readonly BpfObject[], options: ObjectToolOptions) {
    this.objects = objects;
    this.#options = options;
    for (const object of objects)
      for (const { name, section, autoload } of object.programs)
        this.#programs.set(keyOf(object, name), {
          name,
          section,
          attached: 0,
          skipped: [],
          missed: 0n,
          runs: 0n,
          runTimeNs: 0n,
          left: !autoload,
        });
  }

  opened(kernel: Kernel, pid?: number): void {
    this.#options.symbolizer.forget();
    this.#options.symbolizer.look(pid);
    const first = this.#carried.length === 0;
    if (this.#options.allowModify !== undefined) kernel.allowModifyReturn = this.#options.allowModify;
    try {
      if (this.#options.stats) kernel.enableStats();
      for (const [i, object] of this.objects.entries()) {
        const carried = this.#carried[i];
        object.load(kernel, {
          pins: this.#options.pins,
          deferUnmatched: true,
          logLevel: this.#options.logLevel,
          ...(carried === undefined ? {} : { carried }),
        });
      }
      this.#attach(kernel);
      this.#tellLogs();
    } catch (cause) {
      for (const object of this.objects) object.destroy();
      this.#failure = cause;
      // A command was asked for with its programs; none of its own code has run.
      if (first) this.session?.killCommand();
      throw cause;
    }
    this.#kernel = kernel;
    this.#startReaders();
  }

  modulesChanged(kernel: Kernel, pid?: number): void {
    this.#options.symbolizer.look(pid);
    if (this.#kernel !== undefined) this.#attach(kernel);
  }

  #tellLogs(): void {
    for (const object of this.objects)
      for (const program of object.programs)
        if (program.loaded && program.prog.log)
          this.#options.note(`program ${program.name}:\n${program.prog.log}`);
  }

  #attach(kernel: Kernel): void {
    for (const object of this.objects) object.attach();
    if (kernel.mayPrint) this.#timer ??= setInterval(() => this.#printTrace(kernel), TRACE_MS);
  }

  #startReaders(): void {
    for (const object of this.objects)
      for (const map of object.maps)
        if (map.loaded && hasRecords(map)) {
          const ring = object.ringBuffer(map.name);
          this.#rings.push({ map, ring });
          this.#read(map, ring).catch(cause => this.#fail(cause));
        }
  }

  async #read(map: ObjectMap, ring: RingBuffer): Promise<void> {
    while (!ring.closed) {
      const taken = this.#take(map, ring, BATCH);
      if (taken === BATCH) await new Promise(resolve => setImmediate(resolve));
      else await ring.wait(WAIT_MS);
    }
  }

  #take(map: ObjectMap, ring: RingBuffer, limit?: number): number {
    return ring.consumeBytes(bytes => {
      if (this.#options.keep) {
        let kept = this.#kept.get(map.name);
        if (kept === undefined) {
          kept = [];
          this.#kept.set(map.name, kept);
        }
        if (kept.length < MAX_KEPT) kept.push(ring.decode(bytes));
        else if (kept.length === MAX_KEPT) {
          kept.length++;
          this.#options.note(`map ${map.name}: more than ${MAX_KEPT} records, the others are left out`);
        }
      } else this.#options.line(`${map.name}: ${this.#options.symbolizer.annotate(ring.format(bytes))}`);
    }, limit);
  }

  #printTrace(kernel: Kernel): void {
    if (this.#printsUnseen) return;
    try {
      for (const line of kernel.readTrace()) this.#options.line(line.replace(/\n+$/, ''));
    } catch (cause) {
      if (!(cause instanceof BpfError)) throw cause;
      // The programs run all the same.
      this.#printsUnseen = true;
      clearInterval(this.#timer);
      this.#options.note(cause.message);
    }
  }

  #fail(cause: unknown): void {
    this.#failure ??= cause;
    this.session?.stop();
  }

  closed(kernel: Kernel): void {
    const printed = this.#timer !== undefined;
    clearInterval(this.#timer);
    this.#timer = undefined;
    if (this.#kernel !== kernel) return;
    this.#kernel = undefined;
    if (printed) this.#printTrace(kernel);
    for (const { map, ring } of this.#rings) {
      this.#take(map, ring);
      this.#dropped.set(map.name, (this.#dropped.get(map.name) ?? 0n) + ring.dropped);
      ring.close();
    }
    this.#rings = [];
    this.#maps = this.objects.flatMap(object =>
      object.maps.filter(map => map.loaded).map(map => readMap(map, this.#kept.get(map.name))),
    );
    this.#options.pins.keep(kernel);
    this.#carried = this.objects.map(object => object.snapshot());
    for (const object of this.objects) {
      for (const program of object.programs) {
        const report = this.#programs.get(keyOf(object, program.name))!;
        report.attached += program.attached;
        const [way] = waysOfProgram(program);
        if (way !== undefined) report.way = way;
        report.skipped.push(...program.skipped);
        report.missed += program.missed;
        const stats = program.loaded ? program.prog.stats : undefined;
        report.runs += stats?.runCount ?? 0n;
        report.runTimeNs += stats?.runTimeNs ?? 0n;
      }
      // The machine is closed.
      object.forget();
    }
  }

  refused(error: BpfError): void {
    this.#options.note(`not traced from here on: ${error.message}`);
  }

  /** Throws what went wrong, if anything did. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Functions that are attached to now, and were in earlier programs. */
  get attached(): number {
    let attached = 0;
    for (const report of this.#programs.values()) attached += report.attached;
    for (const object of this.objects) for (const program of object.programs) attached += program.attached;
    return attached;
  }

  /** By which ways programs are on their functions now, one for each link of the machine. */
  get ways(): readonly Way[] {
    return this.objects.flatMap(({ programs }) => programs.flatMap(waysOfProgram));
  }

  get programs(): readonly ProgramReport[] {
    return [...this.#programs.values()];
  }

  /** Maps as they were when the last program was left. */
  get maps(): readonly MapReport[] {
    return this.#maps;
  }

  /** Records that found no room, by map. */
  get dropped(): ReadonlyMap<string, bigint> {
    return this.#dropped;
  }

  /** The maps that hold something, as tables. */
  tables(): string {
    return this.#maps.map(map => formatEntries(map, this.#options.symbolizer)).join('');
  }
}

function waysOfProgram({ links }: ObjectProgram): Way[] {
  return links.flatMap(link =>
    link.kind === 'tracing' ? ['tracing' as const] : waysOf([link as TracingMultiLink]),
  );
}

function keyOf(object: BpfObject, program: string): string {
  return `${object.name}\0${program}`;
}

/** Whether the map's contents are records that come. */
function hasRecords({ spec }: ObjectMap): boolean {
  return spec.type === MAP_TYPE.RINGBUF || spec.type === MAP_TYPE.PERF_EVENT_ARRAY;
}
