/**
 * `trace` on one program of a process: its maps, the programs (programs.ts) and their links, and the records as events.
 */

import { MAP_FLAG, MAP_TYPE } from '../../bpf/map_type.js';
import { BpfError } from '../../kernel/errno.js';
import type {
  BpfMap,
  BpfProg,
  Kernel,
  LinkTarget,
  ProgLoadAttr,
  SkippedFunction,
  TracingMultiLink,
} from '../../kernel/kernel.js';
import { SelectorSet } from '../../process/symbols/selector.js';
import { LICENSE } from '../license.js';
import { FunctionSlots } from '../targets.js';
import { choosesThreads, type ThreadChoice, threadIdProgram } from '../thread_choice.js';
import { LOST, type TraceMaps } from './maps.js';
import { traceProgram } from './programs.js';
import { decodeRecord, FEW_WORDS, MANY_WORDS, makeCookie, type TraceEvent } from './records.js';
import { describeFunction, type TracedFunction } from './traced_function.js';
import { longjmpProgram, unwindProgram } from './unwind_programs.js';

/** Bytes of the ring buffer: some 250,000 calls that wait for their reader. */
const RING_BYTES = 32 << 20;
/** Threads that can be in a tree at a time, where trees have chosen roots. */
const MAX_ROOTS = 1 << 14;

/** Functions that leave frames without a return. */
const LONGJMP = ['*:longjmp', '*:_longjmp', '*:siglongjmp', '*:__longjmp_chk'];
const SET_IP = ['*:_Unwind_SetIP'];

export interface TracerOptions {
  readonly selectors: SelectorSet;
  /** Functions that trees may begin at; any where left out. */
  readonly roots?: SelectorSet;
  /** Whose calls. */
  readonly threads: ThreadChoice;
  /** The running kernel is traced, whose threads leave no frames by a jump. */
  readonly ofKernel?: boolean;
  /** Texts may be in the kernel's memory. */
  readonly readsKernel?: boolean;
}

/** A form of the session program: how many words it writes, and whether it reads texts. */
interface Form {
  readonly name: string;
  readonly words: number;
  readonly texts: boolean;
}

const FORMS = {
  few: { name: 'trace', words: FEW_WORDS, texts: false },
  many: { name: 'trace_many', words: MANY_WORDS, texts: false },
  texts: { name: 'trace_texts', words: MANY_WORDS, texts: true },
} as const satisfies Record<string, Form>;

/** A program and its link, loaded when the first function wants it. */
interface Attached {
  readonly link: TracingMultiLink;
  readonly prog: BpfProg;
}

export class Tracer {
  readonly #kernel: Kernel;
  readonly #options: TracerOptions;
  readonly #slots = new FunctionSlots();
  /** Threads have ids that programs find. */
  readonly #ids: boolean;
  readonly #records: BpfMap;
  readonly #lost: BpfMap;
  readonly #maps: TraceMaps & { readonly all: readonly BpfMap[] };
  readonly #functions: TracedFunction[] = [];
  readonly #traced = new Map<string, Attached>();
  readonly #watching = new Map<string, Attached>();
  /** IFUNCs that have not been chosen so far; they join when they are. */
  #unresolved: readonly SkippedFunction[] = [];
  #roots = 0;
  #closed = false;

  /**
   * Attaches to what matches now; throws only where that is impossible as a whole. `attaching` is told how many functions
   * there are, before.
   */
  constructor(kernel: Kernel, options: TracerOptions, attaching: (functions: number) => void = () => {}) {
    this.#kernel = kernel;
    this.#options = options;
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
    this.#ids = options.ofKernel === true || this.#hasThreadIds();
    // Without ids the threads' trees can't be told apart in the process: what is written is more, and its reader knows.
    if (options.roots === undefined || !this.#ids)
      this.#maps = { records: this.#records, lost: this.#lost, all };
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
    this.#attach(attaching);
  }

  /** Throws EOPNOTSUPP where there are none, and threads are named by them. */
  #hasThreadIds(): boolean {
    try {
      const name = 'thread_id';
      this.#kernel
        .progLoad({ name, attachType: 'fentry', insns: threadIdProgram(), maps: [], multi: true })
        .free();
      return true;
    } catch (cause) {
      if (
        !(cause instanceof BpfError) ||
        cause.code !== 'EOPNOTSUPP' ||
        choosesThreads(this.#options.threads)
      )
        throw cause;
      return false;
    }
  }

  /** By slot. */
  get functions(): readonly TracedFunction[] {
    return this.#functions;
  }
  get matched(): number {
    return this.attached + this.skipped.length;
  }
  get attached(): number {
    return this.#slots.without(this.skipped);
  }
  get skipped(): readonly SkippedFunction[] {
    return [...this.#links(this.#traced).flatMap(link => link.skipped), ...this.#unresolved];
  }
  /** Functions at which trees may begin, where they are chosen. */
  get roots(): number {
    return this.#roots;
  }
  /** How long attaching took once the functions were known, ms. */
  get attachMs(): number {
    return this.#all().reduce((sum, link) => sum + link.attachMs, 0);
  }
  get pauseMs(): number {
    return Math.max(0, ...this.#all().map(link => link.pauseMs));
  }
  get missed(): bigint {
    let missed = 0n;
    for (const { link, prog } of this.#traced.values()) missed += link.missed + (prog.missed ?? 0n);
    return missed;
  }

  get links(): readonly TracingMultiLink[] {
    return this.#links(this.#traced);
  }

  #links(of: ReadonlyMap<string, Attached>): TracingMultiLink[] {
    return [...of.values()].map(({ link }) => link);
  }

  #all(): TracingMultiLink[] {
    return [...this.#links(this.#traced), ...this.#links(this.#watching)];
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

  /** Attaches to what libraries brought: which of the programs a function gets depends on the function. */
  extend(): void {
    this.#attach();
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

  #attach(attaching: (functions: number) => void = () => {}): void {
    const matched = this.#kernel.functions(this.#options.selectors);
    this.#unresolved = matched.flatMap(({ unresolved, module, name, address }) =>
      unresolved === undefined ? [] : [{ ...unresolved, module, function: name, address }],
    );
    const done = attempted(this.#links(this.#traced));
    const fresh = matched.filter(({ unresolved, address }) => unresolved === undefined && !done.has(address));
    attaching(fresh.length);
    const { roots } = this.#options;
    const rootAddresses = roots && new Set(this.#kernel.functions(roots).map(({ address }) => address));
    const wanted = new Map<Form, LinkTarget[]>();
    for (const target of fresh) {
      const slot = this.#slots.slotOf(target);
      const fn = describeFunction(this.#kernel, target, this.#options.ofKernel);
      this.#functions[slot] = fn;
      const resultText = fn.signature?.returnsText === true;
      const root = rootAddresses === undefined || rootAddresses.has(target.address);
      if (root) this.#roots++;
      const cookie = makeCookie({ slot, texts: fn.texts, resultText, root });
      const form =
        fn.texts.length > 0 || resultText
          ? FORMS.texts
          : (fn.signature?.words ?? 0) > FEW_WORDS
            ? FORMS.many
            : FORMS.few;
      const list = wanted.get(form);
      if (list === undefined) wanted.set(form, [{ target, cookie }]);
      else list.push({ target, cookie });
    }
    const ids = this.#ids;
    const { threads, ofKernel = false, readsKernel = false } = this.#options;
    for (const [form, targets] of wanted)
      this.#join(this.#traced, form.name, targets, () => ({
        attachType: 'fsession',
        argumentWords: form.words,
        insns: traceProgram(this.#maps, { ...form, ...threads, ids, readsKernel }),
      }));
    if (!ofKernel) this.#watchUnwinding();
  }

  #join(
    to: Map<string, Attached>,
    name: string,
    targets: readonly LinkTarget[],
    program: () => Pick<ProgLoadAttr, 'attachType' | 'argumentWords' | 'insns'>,
  ): void {
    const known = to.get(name);
    if (known !== undefined) {
      known.link.add(targets);
      return;
    }
    const prog = this.#kernel.progLoad({
      ...program(),
      name,
      maps: this.#maps.all,
      multi: true,
      license: LICENSE,
    });
    to.set(name, { prog, link: this.#kernel.linkCreate({ prog, targets, skipInvalid: true }) });
  }

  /** Watches the functions by which frames are left, as soon as any function is traced. */
  #watchUnwinding(): void {
    if (this.#links(this.#traced).every(link => link.targets.length === 0)) return;
    const threads = { ...this.#options.threads, ids: this.#ids };
    for (const [name, selectors, insns] of [
      ['longjmp', LONGJMP, longjmpProgram(this.#maps, threads)],
      ['unwind', SET_IP, unwindProgram(this.#maps, threads)],
    ] as const) {
      // From then on the link follows what libraries bring.
      if (this.#watching.has(name)) continue;
      const set = SelectorSet.parse(selectors);
      // Loads that may fault make every thread of the process be watched: not for nothing.
      if (this.#kernel.functions(set).length === 0) continue;
      const prog = this.#kernel.progLoad({
        name,
        attachType: 'fentry',
        insns,
        maps: this.#maps.all,
        multi: true,
        license: LICENSE,
      });
      const pattern = { selectors: set };
      this.#watching.set(name, { prog, link: this.#kernel.linkCreate({ prog, pattern, skipInvalid: true }) });
    }
  }
}

/** Addresses of what links are attached to, or could not be. */
function attempted(links: readonly TracingMultiLink[]): Set<bigint> {
  const addresses = new Set<bigint>();
  for (const { targets, skipped } of links) {
    for (const { target } of targets) addresses.add(target.address);
    for (const { address } of skipped) addresses.add(address);
  }
  return addresses;
}
