/**
 * The interface of a machine, shaped like bpf(2): what a loader programs against, whether a live process or the
 * running Linux kernel stands behind it. Types only.
 */

import type { BpfInsn } from '../bpf/instruction.js';
import type { SelectorSet } from '../process/symbols/selector.js';

/** Attributes of `BPF_MAP_CREATE`; sizes in bytes. */
export interface MapCreateAttr {
  /** A number of `MAP_TYPE`. */
  readonly type: number;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
}

/** A map that the machine holds. Keys and values are bytes in the program's layout, exactly key and value size long. */
export interface BpfMap {
  readonly id: number;
  readonly type: number;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  /** A copy of the value; `undefined` where the key is not there. */
  lookup(key: Uint8Array): Uint8Array | undefined;
  /** Throws EEXIST (BPF_NOEXIST), ENOENT (BPF_EXIST), E2BIG (the map is full). */
  update(key: Uint8Array, value: Uint8Array, flags?: bigint): void;
  /** Throws ENOENT where the key is not there, EINVAL for an array. */
  delete(key: Uint8Array): void;
  /** The key after `key` in no order that means anything; the first where `key` is left out or gone. */
  nextKey(key?: Uint8Array): Uint8Array | undefined;
  free(): void;
}

/** What a tracing program is attached at. */
export type AttachType = 'fentry';

/** Attributes of `BPF_PROG_LOAD` for a tracing program. */
export interface ProgLoadAttr {
  readonly name: string;
  readonly attachType: AttachType;
  readonly insns: readonly BpfInsn[];
  readonly maps: readonly BpfMap[];
}

/** A loaded program. */
export interface BpfProg {
  readonly id: number;
  readonly name: string;
  readonly attachType: AttachType;
  /** Argument positions of the traced function that the program reads, from 0. */
  readonly accessedArgs: readonly number[];
  /** Bytes of machine code. */
  readonly jitedSize: number;
}

/** A function of the machine that a selector matched. */
export interface TargetFunction {
  /** Name of the module: the file's name for a library or program. */
  readonly module: string;
  /** The name that was matched first. */
  readonly name: string;
  /** Where it starts, in the machine. */
  readonly address: bigint;
  /** Bytes. */
  readonly size: number;
  /** Why it can't be resolved to code (an IFUNC that nothing has resolved yet), where that is so. */
  readonly unresolved?: SkipReason;
}

/** A reason for which a function is not attached: a word from a fixed list, and its sentence. */
export interface SkipReason {
  readonly reason: string;
  readonly detail: string;
}

/** A function that was left out, and why. */
export interface SkippedFunction extends SkipReason {
  readonly module: string;
  readonly function: string;
  readonly address: bigint;
}

/** One target of a multi-link: the function and the u64 that the program reads there. */
export interface LinkTarget {
  readonly target: TargetFunction;
  readonly cookie: bigint;
}

/** Attributes of `BPF_LINK_CREATE` for a tracing multi-link. */
export interface LinkCreateAttr {
  readonly prog: BpfProg;
  readonly targets: readonly LinkTarget[];
  /** Leave out what can't be attached; without it the first such function fails the whole link. */
  readonly skipInvalid?: boolean;
}

/** One program on many functions. */
export interface TracingMultiLink {
  readonly id: number;
  readonly prog: BpfProg;
  /** What it is attached to. */
  readonly targets: readonly LinkTarget[];
  /** What was left out under `skipInvalid`. */
  readonly skipped: readonly SkippedFunction[];
  /** How long the machine stood still for the last change, ms. */
  readonly pauseMs: number;
  /** Calls that the program did not see, because the thread was inside it already. */
  readonly missed: bigint;
  /** Joins more targets to the link, all or nothing unless `skipInvalid`. */
  add(targets: readonly LinkTarget[]): void;
  /** Restores every function. The link is of no use afterwards. */
  detach(): void;
}

/** How one function would be attached, or why not. */
export interface TargetCheck {
  readonly target: TargetFunction;
  /** Where the patch goes: address, bytes, kind. */
  readonly site?: { readonly address: bigint; readonly length: number; readonly kind: string };
  readonly refused?: SkipReason;
}

export interface Kernel {
  mapCreate(attr: MapCreateAttr): BpfMap;
  /** Verifies and compiles. Throws EACCES or EINVAL with the verifier's sentence. */
  progLoad(attr: ProgLoadAttr): BpfProg;
  linkCreate(attr: LinkCreateAttr): TracingMultiLink;
  /** The functions that the selectors match now. */
  functions(selectors: SelectorSet): TargetFunction[];
  /** What `linkCreate` would do with each, without doing it. */
  check(targets: readonly TargetFunction[]): TargetCheck[];
  /** Names of the modules that are there now. */
  modules(): string[];
  /** Detaches every link and gives the machine back as it was. */
  close(): void;
}
