/**
 * `trace` on one program of a process: its maps, the programs (programs.ts) and their links, and the records as events.
 */

import type { BpfInsn } from '../../bpf/instruction.js';
import { MAP_FLAG, MAP_TYPE } from '../../bpf/map_type.js';
import { BpfError } from '../../kernel/errno.js';
import type {
  AttachType,
  BpfMap,
  Kernel,
  LinkTarget,
  SkippedFunction,
  TargetFunction,
  TracingMultiLink,
} from '../../kernel/kernel.js';
import { SelectorSet } from '../../process/symbols/selector.js';
import { type Signature, signatureOf } from '../signature.js';
import { attempted, type NewTarget, SelectedTargets } from '../targets.js';
import { LOST, longjmpProgram, type TraceMaps, traceProgram, unwindProgram } from './programs.js';
import { decodeRecord, MAX_TEXTS, makeCookie, type TraceEvent } from './records.js';

/** Bytes of the ring buffer: some 250,000 calls that wait for their reader. */
const RING_BYTES = 32 << 20;
/** Threads that can be in a tree at a time, where trees have chosen roots. */
const MAX_ROOTS = 1 << 14;

/** Functions that leave frames without a return. */
const LONGJMP = ['*:longjmp', '*:_longjmp', '*:siglongjmp', '*:__longjmp_chk'];
const SET_IP = ['*:_Unwind_SetIP'];

/** A traced function. */
export interface TracedFunction {
  readonly module: string;
  readonly name: string;
  readonly address: bigint;
  /** Where its module's types know it. */
  readonly signature: Signature | undefined;
  /** Registers that point to texts which are read, in order. */
  readonly texts: readonly number[];
}

export interface TracerOptions {
  readonly selectors: SelectorSet;
  /** Functions that trees may begin at; any where left out. */
  readonly roots?: SelectorSet;
  /** All where empty. */
  readonly tids: readonly number[];
}

/** One kind of program, loaded when the first function wants it. */
interface Attached {
  readonly link: TracingMultiLink;
  readonly missed: () => bigint;
}

export class Tracer {
  readonly #kernel: Kernel;
  readonly #options: TracerOptions;
  readonly #targets: SelectedTargets;
  readonly #records: BpfMap;
  readonly #lost: BpfMap;
  readonly #maps: TraceMaps & { readonly all: readonly BpfMap[] };
  readonly #functions: TracedFunction[] = [];
  readonly #links = new Map<string, Attached>();
  #attachMs = 0;
  #pauseMs = 0;
  #closed = false;

  /**
   * Attaches to what matches now; throws only where that is impossible as a whole. `attaching` is told how many functions
   * there are, before.
   */
  constructor(kernel: Kernel, options: TracerOptions, attaching: (functions: number) => void = () => {}) {
    this.#kernel = kernel;
    this.#options = options;
    this.#targets = new SelectedTargets(kernel, options.selectors);
    this.#records = kernel.mapCreate({
      type: MAP_TYPE.RINGBUF,
      name: 'records',
      keySize: 0,
      valueSize: 0,
      maxEntries: RING_BYTES,
    });
    this.#lost = kernel.mapCreate({
      type: MAP_TYPE.ARRAY,
      name: 'lost',
      keySize: 4,
      valueSize: LOST.size,
      maxEntries: 1,
      flags: MAP_FLAG.MMAPABLE,
    });
    const all = [this.#records, this.#lost];
    if (options.roots === undefined) this.#maps = { records: this.#records, lost: this.#lost, all };
    else {
      const roots = kernel.mapCreate({
        type: MAP_TYPE.HASH,
        name: 'roots',
        keySize: 8,
        valueSize: 8,
        maxEntries: MAX_ROOTS,
      });
      this.#maps = { records: this.#records, lost: this.#lost, roots, all: [...all, roots] };
    }
    const now = this.#targets.find(new Set());
    attaching(now.length);
    this.#attach(now);
    this.#watchUnwinding();
  }

  /** By slot. */
  get functions(): readonly TracedFunction[] {
    return this.#functions;
  }
  get matched(): number {
    return this.#targets.matched;
  }
  get attached(): number {
    return this.#targets.functions.length - this.#traceLinks().reduce((n, l) => n + l.skipped.length, 0);
  }
  get skipped(): readonly SkippedFunction[] {
    return [...this.#traceLinks().flatMap(link => link.skipped), ...this.#targets.unresolved];
  }
  /** How long attaching took once the functions were known, ms. */
  get attachMs(): number {
    return this.#attachMs;
  }
  get pauseMs(): number {
    return this.#pauseMs;
  }
  get missed(): bigint {
    let missed = 0n;
    for (const { link, missed: ofProgram } of this.#links.values()) missed += link.missed + ofProgram();
    return missed;
  }

  /** Calls that found no room, as wholes; and returns of calls that had. */
  get lost(): { readonly calls: number; readonly returns: number } {
    const { memory } = this.#lost;
    if (memory === undefined) return { calls: 0, returns: 0 };
    const view = new DataView(memory.buffer, memory.byteOffset);
    return {
      calls: Number(view.getBigUint64(LOST.calls, true)),
      returns: Number(view.getBigUint64(LOST.returns, true)),
    };
  }

  /** Attaches to what libraries brought. */
  extend(): void {
    this.#attach(this.#targets.find(attempted(this.#traceLinks())));
    this.#watchUnwinding();
  }

  /** Hands on the events that are there, and returns how many records that were; never waits. */
  consume(take: (event: TraceEvent) => void, limit?: number): number {
    if (this.#closed) return 0;
    return this.#records.consume!(bytes => {
      const event = decodeRecord(bytes);
      // The process can write over the ring: what names no function of ours is not ours.
      if (event !== undefined && (event.kind !== 'entered' || event.slot < this.#functions.length))
        take(event);
    }, limit);
  }

  /** Resolves when there may be something to consume, or after `timeoutMs`. */
  async wait(timeoutMs: number): Promise<void> {
    await this.#records.wait!(timeoutMs);
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** The records can't be read any more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#records.free();
  }

  #traceLinks(): TracingMultiLink[] {
    return ['trace', 'trace_text'].flatMap(name => this.#links.get(name)?.link ?? []);
  }

  #attach(fresh: readonly NewTarget[]): void {
    const plain: LinkTarget[] = [];
    const withTexts: LinkTarget[] = [];
    const roots = this.#rootAddresses();
    for (const { target, slot } of fresh) {
      const fn = traced(this.#kernel, target);
      this.#functions[slot] = fn;
      const resultText = fn.signature?.returnsText === true;
      const root = roots === undefined || roots.has(target.address);
      const cookie = makeCookie({ slot, texts: fn.texts, resultText, root });
      (fn.texts.length > 0 || resultText ? withTexts : plain).push({ target, cookie });
    }
    const { tids } = this.#options;
    const program = (texts: boolean) => () => traceProgram(this.#maps, { tids, texts });
    this.#join('trace', 'fsession', plain, program(false));
    this.#join('trace_text', 'fsession', withTexts, program(true));
  }

  #rootAddresses(): Set<bigint> | undefined {
    const { roots } = this.#options;
    return roots && new Set(this.#kernel.functions(roots).map(({ address }) => address));
  }

  /** Attaches to the functions by which frames are left, where there are any. */
  #watchUnwinding(): void {
    // Where nothing is traced, no frame matters.
    if (this.#traceLinks().every(link => link.targets.length === 0)) return;
    const { tids } = this.#options;
    this.#joinMatching('longjmp', LONGJMP, () => longjmpProgram(this.#maps, tids));
    this.#joinMatching('unwind', SET_IP, () => unwindProgram(this.#maps, tids));
  }

  #joinMatching(name: string, selectors: readonly string[], program: () => BpfInsn[]): void {
    const link = this.#links.get(name)?.link;
    const done = link === undefined ? new Set<bigint>() : attempted([link]);
    const targets = this.#kernel
      .functions(SelectorSet.parse(selectors))
      .filter(target => target.unresolved === undefined && !done.has(target.address))
      .map(target => ({ target, cookie: 0n }));
    this.#join(name, 'fentry', targets, program);
  }

  #join(
    name: string,
    attachType: AttachType,
    targets: readonly LinkTarget[],
    program: () => BpfInsn[],
  ): void {
    if (targets.length === 0) return;
    const known = this.#links.get(name);
    let from = performance.now();
    if (known === undefined) {
      const prog = this.#kernel.progLoad({ name, attachType, insns: program(), maps: this.#maps.all });
      from = performance.now();
      const link = this.#kernel.linkCreate({ prog, targets, skipInvalid: true });
      this.#links.set(name, { link, missed: () => prog.missed ?? 0n });
      this.#pauseMs = Math.max(this.#pauseMs, link.pauseMs);
    } else {
      known.link.add(targets);
      this.#pauseMs = Math.max(this.#pauseMs, known.link.pauseMs);
    }
    this.#attachMs += performance.now() - from;
  }
}

function traced(kernel: Kernel, target: TargetFunction): TracedFunction {
  const { module, name, address } = target;
  let signature: Signature | undefined;
  try {
    signature = signatureOf(kernel, target);
  } catch (cause) {
    // Damaged types are a bonus that is not there.
    if (!(cause instanceof BpfError)) throw cause;
  }
  const texts = (signature?.args ?? []).flatMap(({ text, slot }) =>
    text && slot !== undefined ? [slot] : [],
  );
  return { module, name, address, signature, texts: texts.slice(0, MAX_TEXTS) };
}
