/**
 * Program arrays (BPF_MAP_TYPE_PROG_ARRAY), the reader's side: where tail calls go. A value is the address at which a
 * tail call enters a program, 0 for none; we read the program's id. All programs of an array must be of one kind: what
 * one may read in its context, the next may too.
 */

import { BpfError } from '../../errno.js';
import type { BpfProg } from '../../kernel.js';
import type { ProgramContext } from '../program.js';
import type { Arena } from '../region/arena.js';
import { IndexedMap, keyOfIndex } from './array.js';
import type { MapAttributes } from './attributes.js';
import { ARRAY, MAP } from './layout.js';

/** What a program must have to be called by tail calls. */
export interface TailCallee extends BpfProg {
  /** Where a tail call enters it, in the process. */
  readonly tailEntry: bigint;
  /** How its context is laid out; those of an array must agree. */
  readonly context?: ContextKind;
  /** One user more, until `release`. */
  hold?(): void;
  release?(): void;
}

const ENTRY = 8;

function isTailCallee(object: unknown): object is TailCallee {
  return typeof (object as { tailEntry?: unknown } | undefined)?.tailEntry === 'bigint';
}

/** What the programs of an array must agree in. */
export interface ProgramKind {
  readonly name: string;
  readonly attachType: string;
  readonly context?: ContextKind;
}

type ContextKind = Pick<ProgramContext, 'layout' | 'words'>;

/** The kind of the programs of one array: that of the first which is in it or calls through it. */
export class CalleeKind {
  readonly #map: string;
  #owner: ProgramKind | undefined;

  constructor(map: string) {
    this.#map = map;
  }

  /** Throws `BpfError` EINVAL for a program of another kind. */
  accept(program: ProgramKind): void {
    this.#owner ??= program;
    const owner = this.#owner;
    const kind = ({ attachType, context }: ProgramKind): string =>
      `${attachType} with ${context === undefined || context.layout === 'registers' ? 'unknown' : context.words} arguments`;
    if (kind(owner) === kind(program)) return;
    throw new BpfError(
      'EINVAL',
      `Program '${program.name}' (${kind(program)}) can not be in map '${this.#map}' with '${owner.name}' (${kind(owner)}); use programs of one kind.`,
    );
  }
}

export class ProgArray extends IndexedMap {
  /** Address of the first entry, u64 each: for the JIT. */
  readonly values: bigint;
  readonly stride = ENTRY;
  private readonly kind: CalleeKind;
  private readonly programs = new Map<number, TailCallee>();

  /** `isLoaded`: whether a program is one of the process's; all are where left out. */
  constructor(
    attr: MapAttributes,
    id: number,
    arena: Arena,
    private readonly isLoaded: (program: object) => boolean = () => true,
  ) {
    super(attr, id, arena, ARRAY.VALUES + ENTRY * attr.maxEntries);
    this.kind = new CalleeKind(attr.name);
    this.values = this.address + BigInt(ARRAY.VALUES);
    this.header.setUint32(ARRAY.STRIDE, ENTRY, true);
    this.header.setUint32(MAP.VALUE_SIZE, ENTRY, true);
  }

  /** The id of the program, u32. */
  lookup(key: Uint8Array): Uint8Array | undefined {
    const index = this.indexOf(key);
    this.checkReadable();
    const program = this.programs.get(index);
    return program === undefined ? undefined : keyOfIndex(program.id);
  }

  update(key: Uint8Array, _value: Uint8Array, flags = 0n): void {
    this.checkKey(key);
    this.checkWritable(flags);
    throw this.unsupported('write a value', 'its values are programs, so give one to updateObject');
  }

  /** The programs that are called now: each must stay loaded. */
  *callees(): Iterable<TailCallee> {
    yield* this.programs.values();
  }

  /** As `CalleeKind` says: of a program that may be in the array, or call through it (at its load). */
  accept(program: ProgramKind): void {
    this.kind.accept(program);
  }

  updateObject(key: Uint8Array, object: unknown, flags = 0n): void {
    this.checkKey(key);
    this.checkWritable(flags);
    if (!isTailCallee(object) || !this.isLoaded(object)) {
      throw new BpfError(
        'EINVAL',
        `A value of map '${this.name}' must be a program that is loaded in the process.`,
      );
    }
    const index = this.indexToWrite(key, flags);
    this.accept(object);
    object.hold?.();
    const old = this.programs.get(index);
    this.programs.set(index, object);
    Atomics.store(this.words, ARRAY.VALUES / 8 + index, object.tailEntry);
    old?.release?.();
  }

  override delete(key: Uint8Array): void {
    const index = this.indexOf(key);
    this.checkWritable();
    const old = this.programs.get(index);
    if (old === undefined) {
      throw this.error('ENOENT', `Index ${index} of map '${this.name}' holds no program; nothing to delete.`);
    }
    this.programs.delete(index);
    Atomics.store(this.words, ARRAY.VALUES / 8 + index, 0n);
    old.release?.();
  }

  protected override freed(): void {
    for (const program of this.programs.values()) program.release?.();
    this.programs.clear();
  }
}
