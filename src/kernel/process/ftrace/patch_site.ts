/**
 * The words of ftrace for a live process: the code of a module as bytes, a patch site, and the fixed list of
 * reasons why a function has none. Only types and the list; the analysis is in find_patch_sites.ts, and nothing
 * here touches a process.
 */

import { type DisplacedCode, placeCode } from '../../../x86/relocator.js';

export type { DisplacedCode };

/** Bytes of the `jmp rel32` or `call rel32` that a patch site is replaced with. */
export const PATCH_SIZE = 5;

/** Bytes of the `jmp rel8` that the patch site is replaced with where there is an island. */
export const SHORT_PATCH_SIZE = 2;

/** Bytes of the `jmp rel32` in an island. */
export const ISLAND_SIZE = 5;

/** A stretch of a file's memory image. Addresses are file virtual addresses. */
export interface CodeSection {
  readonly name: string;
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** What must be known of a module to find patch sites in it. Addresses are file virtual addresses. */
export interface ModuleCode {
  readonly name: string;
  /** The executable sections. */
  readonly sections: readonly CodeSection[];
  /** Every known function start (symbols, unwind tables), ascending; not only the traced ones. */
  readonly functionStarts: ArrayLike<number>;
  /** What one entry of the unwind table covers, ascending by `start`. Size in bytes. */
  readonly frames: readonly { readonly start: number; readonly size: number }[];
  /** Code addresses stored in data: what relative, absolute and indirect-function relocations resolve to. */
  readonly pointers: Iterable<number>;
  /** Bytes of the module's image, data too (for jump tables); `undefined` where the file has none. */
  readonly readBytes: (address: number, length: number) => Uint8Array | undefined;
  /**
   * Data sections of a file that is linked to a fixed address (ET_EXEC): code addresses stand there without
   * relocations. Their presence also says that instructions may hold absolute code addresses.
   */
  readonly fixedData?: readonly CodeSection[];
}

/** A function to patch. `size` in bytes; 0 where only the module's tables can tell. */
export interface TracedFunction {
  readonly name: string;
  readonly address: number;
  readonly size: number;
}

/** Padding between functions, within reach of a `jmp rel8` at the site that it belongs to. */
export interface Island {
  /** File virtual address. */
  readonly address: number;
  /** Its 5 bytes as the file has them. */
  readonly original: Uint8Array;
}

/** Bytes at a function's entry that can be replaced. */
export interface PatchSite {
  /**
   * `nop-sled`: nothing is displaced, the compiler left room. `moved`: the first instructions are displaced. `island`:
   * they are too, but there is room for a jump of 2 bytes only, and the jump to the slot stands in padding nearby.
   */
  readonly kind: 'nop-sled' | 'moved' | 'island';
  /** The function's address. */
  readonly function: number;
  /** The first byte replaced: the function's, or behind its `endbr64`. */
  readonly address: number;
  /**
   * Bytes that belong to the site, at least 5, with an island 2: the whole instructions displaced, or the nops. For a
   * nop sled all of them are rewritten (what follows the 5 bytes with nops); else only the first 5 or 2.
   */
  readonly length: number;
  /** The `length` bytes as the file has them. */
  readonly original: Uint8Array;
  /** The displaced instructions; empty for a nop sled. */
  readonly displaced: DisplacedCode;
  /** True where the function jumps back to its own entry: each such jump counts as an entry, with no new return. */
  readonly loopsToEntry: boolean;
  /** Where `kind` is `island`, and only there. */
  readonly island?: Island;
}

/** How many bytes at the site's address are replaced. */
export function patchSize(site: PatchSite): number {
  if (site.kind === 'nop-sled') return site.length;
  return site.island === undefined ? PATCH_SIZE : SHORT_PATCH_SIZE;
}

/** Each reason why a function can't be patched, in one sentence. */
export const REFUSALS = {
  denied: 'tracing it would break the program, whatever its instructions are',
  'outside-code': 'its address is not inside an executable section of the file',
  'too-short': 'it is shorter than 5 bytes and no padding behind it is free',
  'overlaps-function': 'another function starts inside the bytes to be replaced',
  undecodable: 'its first bytes are not valid instructions',
  trap: 'one of its first instructions raises a signal by design (int3, ud2, hlt, int)',
  'far-transfer': 'one of its first instructions changes segment or privilege level',
  transaction: 'one of its first instructions begins a hardware transaction',
  unrelocatable: 'one of its first instructions does something else at another address',
  'call-returns-inside': 'a call among its first instructions returns into the bytes to be replaced',
  'reads-flags': 'its first instructions read flags that its caller left',
  'signal-return': 'it is the return from a signal handler, which unwinders know by its bytes',
  'branch-into-entry': 'a branch goes into the middle of the bytes to be replaced',
  'undecided-branch':
    'bytes that may be a branch, or data, would go into the middle of the bytes to be replaced',
  'pointer-into-entry': 'a code address in data points into the middle of the bytes to be replaced',
  'jump-table-into-entry': 'a jump table leads into the middle of the bytes to be replaced',
  'red-zone-loop': 'it jumps back to its entry while it keeps data below the stack pointer',
} as const;

/** Why a function can't be patched: a key of `REFUSALS`. */
export type RefusalReason = keyof typeof REFUSALS;

/** A function that can't be patched. `detail` adds where or what, for a person. */
export interface Refusal {
  readonly function: number;
  readonly reason: RefusalReason;
  readonly detail?: string;
}

/** Tells a patch site from a refusal. */
export function isPatchSite(result: PatchSite | Refusal): result is PatchSite {
  return 'kind' in result;
}

/**
 * The displaced instructions of `site` as they must stand at runtime address `at` of the process, in which the
 * module's load bias is `bias`. Throws `BpfError` ERANGE where a 32-bit distance does not reach.
 */
export function placeDisplaced(site: PatchSite, at: bigint, bias: bigint): Uint8Array {
  return placeCode(site.displaced, at, bias);
}
