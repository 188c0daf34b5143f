/**
 * The interface of a machine, shaped like bpf(2): what a loader programs against, whether a live process or the
 * running Linux kernel stands behind it. Types only.
 */

import type { BpfInsn } from '../bpf/instruction.js';
import type { Btf } from '../btf/btf.js';
import type { SelectorSet } from '../process/symbols/selector.js';

/** Attributes of `BPF_MAP_CREATE`; sizes in bytes. */
export interface MapCreateAttr {
  /** A number of `MAP_TYPE`. */
  readonly type: number;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  /** `BPF_F_…` of linux/bpf.h. */
  readonly flags?: number;
  /** Bloom filter: how many hash functions. */
  readonly mapExtra?: bigint;
  /** A map of maps: the shape that its maps have. */
  readonly innerMap?: BpfMap;
  /** Types of key and value, which the verifier needs for locks and timers in them. */
  readonly btf?: Btf;
  readonly btfKeyTypeId?: number;
  readonly btfValueTypeId?: number;
}

/** A key and its value, in the program's layout. */
export interface MapEntry {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
}

/**
 * A map that the machine holds. Keys and values are bytes in the program's layout, exactly key and value size long;
 * the value of a per-CPU map is one value for each possible CPU, each rounded up to 8 bytes, as in bpf(2). Operations
 * that a type does not have throw ENOTSUP or EINVAL with a sentence.
 */
export interface BpfMap {
  readonly id: number;
  readonly type: number;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
  readonly btf?: Btf;
  readonly btfKeyTypeId?: number;
  readonly btfValueTypeId?: number;
  readonly innerMap?: BpfMap;
  /** Neither we nor anybody else can write it any more (`BPF_MAP_FREEZE`). */
  readonly frozen: boolean;
  /** A copy of the value; `undefined` where the key is not there. */
  lookup(key: Uint8Array): Uint8Array | undefined;
  /** Throws EEXIST (BPF_NOEXIST), ENOENT (BPF_EXIST), E2BIG (the map is full), EPERM (frozen). */
  update(key: Uint8Array, value: Uint8Array, flags?: bigint): void;
  /** Throws ENOENT where the key is not there, EINVAL for an array. */
  delete(key: Uint8Array): void;
  /** The value, which is deleted; queues and stacks pop (the key is empty). */
  lookupAndDelete(key: Uint8Array): Uint8Array | undefined;
  /** The key after `key` in no order that means anything; the first where `key` is left out or gone. */
  nextKey(key?: Uint8Array): Uint8Array | undefined;
  /** Everything that is there: `BPF_MAP_LOOKUP_BATCH` over the whole map. */
  entries(): Iterable<MapEntry>;
  /** `BPF_MAP_FREEZE`: programs may still write, unless the map is `BPF_F_RDONLY_PROG`. */
  freeze(): void;
  /** Array of maps, hash of maps and program arrays: what a value stands for. */
  updateObject?(key: Uint8Array, object: BpfMap | BpfProg, flags?: bigint): void;
  /** Arrays with `BPF_F_MMAPABLE`: the values themselves, shared. */
  readonly memory?: Uint8Array | undefined;
  /** Ring buffers and perf event arrays: hands each record to `record` and returns how many there were; never waits. */
  consume?(record: (bytes: Uint8Array) => void, limit?: number): number;
  /** Ring buffers: resolves when there is something to consume, or after `timeoutMs`. */
  wait?(timeoutMs: number): Promise<boolean>;
  /** Records that found no room. */
  readonly dropped?: bigint;
  free(): void;
}

/** What a tracing program is attached at. */
export type AttachType = 'fentry' | 'fexit' | 'fmod_ret' | 'fsession';

/**
 * What a function takes and returns. Without types it is opaque: `nargs` (6) integers of 64 bits and an integer result.
 */
export interface FunctionPrototype {
  readonly nargs: number;
  /** Types of the target's module; with them `args` and `returns` are type ids (0: void). */
  readonly btf?: Btf;
  readonly args?: readonly number[];
  readonly returns?: number;
  readonly variadic?: boolean;
}

/** `func_info`: which BTF function begins at a slot of the program. */
export interface FuncInfo {
  readonly slot: number;
  readonly typeId: number;
}

/** `line_info`: the source line of the instructions from a slot on. */
export interface LineInfo {
  readonly slot: number;
  readonly file: string;
  readonly text: string;
  readonly line: number;
  readonly column: number;
}

/** Attributes of `BPF_PROG_LOAD` for a tracing program. */
export interface ProgLoadAttr {
  readonly name: string;
  readonly attachType: AttachType;
  /** Maps are named by id, subprograms follow the main program, kernel functions are numbers of `KFUNC`. */
  readonly insns: readonly BpfInsn[];
  readonly maps: readonly BpfMap[];
  /** The program's own types. */
  readonly btf?: Btf;
  readonly funcInfo?: readonly FuncInfo[];
  readonly lineInfo?: readonly LineInfo[];
  /** The function that it is verified against (`attach_btf_id`); an opaque one where left out. */
  readonly target?: TargetFunction;
  /**
   * It is in a program array, or calls through one, so that it may run for any function. A live process verifies it as if
   * nothing were known of `target`; Linux has each program of an array verified for one and the same.
   */
  readonly forAnyFunction?: boolean;
  /**
   * Without a target: the context has so many words of arguments (1 to 12) and two of the result, which each function's
   * prototype lays out; words that a function does not have are 0. Left out: the six registers of arguments as they are,
   * and rax.
   */
  readonly argumentWords?: number;
  readonly sleepable?: boolean;
  /** It is for multi-links: Linux wants to know when it is loaded. Left out: for a plain link, as far as that matters. */
  readonly multi?: boolean;
  /** Some helpers are for programs with a licence that is compatible with the GPL. */
  readonly license?: string;
  /** Some program looks up what its per-CPU maps hold for other threads (`bpf_map_lookup_percpu_elem`). */
  readonly sharesCpus?: boolean;
  /** A sum: 1 the path that is refused, 2 every instruction with what it changed, 4 statistics alone. */
  readonly logLevel?: number;
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
  /** The verifier's log, where one was asked for. */
  readonly log?: string | undefined;
  /** `BPF_OBJ_GET_INFO_BY_FD`: the program as it was verified, and its machine code with where each instruction begins. */
  readonly xlated?: readonly BpfInsn[];
  readonly jited?: { readonly address: bigint; readonly bytes: Uint8Array; readonly offsets: Int32Array };
  /** With `Kernel.enableStats`, which was called before it was loaded: how often it ran, and for how long in all, ns. */
  readonly stats?: { readonly runCount: bigint; readonly runTimeNs: bigint } | undefined;
  /** Runs that did not happen, because the thread was in the program already, or there were too many threads. */
  readonly missed?: bigint;
  /** Who loaded it needs it no more. It stays while links and program arrays have it, and goes with the last of them. */
  free(): void;
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
  /** What it takes and returns, where that is known already; `Kernel.prototypeOf` finds it. */
  readonly prototype?: FunctionPrototype;
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

/** Attributes of `BPF_LINK_CREATE` for a plain tracing link: one program on one function. */
export interface LinkCreateAttr {
  readonly prog: BpfProg;
  readonly target: TargetFunction;
  /** What `bpf_get_attach_cookie` gives; 0 where left out. */
  readonly cookie?: bigint;
}

/** Functions by selectors: a link with a pattern has those that are there, and those that libraries bring later. */
export interface LinkPattern {
  readonly selectors: SelectorSet;
  /** What `bpf_get_attach_cookie` gives at each; 0 where left out. */
  cookie?(target: TargetFunction): bigint;
}

/** Attributes of `BPF_LINK_CREATE` for a tracing multi-link: functions, or a pattern. */
export type MultiLinkCreateAttr = {
  readonly prog: BpfProg;
  /**
   * Leave out what can't be attached; without it the first such function fails the whole link. Functions that come
   * later are left out in any case.
   */
  readonly skipInvalid?: boolean;
} & (
  | { readonly targets: readonly LinkTarget[]; readonly pattern?: never }
  /** `targets`: what the pattern matches now, where that was asked for already. */
  | { readonly pattern: LinkPattern; readonly targets?: readonly LinkTarget[] }
);

/** `tracing`: one program on one function; `tracing_multi`: one program on many. */
export type LinkKind = 'tracing' | 'tracing_multi';

/**
 * By what one program is on many functions: one tracing multi-link; a kprobe multi-link; a tracing link for each
 * function. A live process has the first only.
 */
export type Way = 'tracing_multi' | 'kprobe_multi' | 'tracing';

/** `BPF_OBJ_GET_INFO_BY_FD` of a link. */
export interface LinkInfo {
  readonly kind: LinkKind;
  readonly id: number;
  readonly progId: number;
  readonly attachType: AttachType;
  readonly targets: readonly {
    readonly module: string;
    readonly function: string;
    readonly address: bigint;
    readonly cookie: bigint;
  }[];
  readonly skipped: readonly SkippedFunction[];
  readonly missed: bigint;
}

/**
 * What every link has. Functions whose library is unloaded leave it; they come back when the library is loaded again.
 */
export interface BpfLink {
  readonly kind: LinkKind;
  readonly id: number;
  /** The program that it runs now. */
  readonly prog: BpfProg;
  /** What it is attached to now; of a link that was detached, what it was attached to last. */
  readonly targets: readonly LinkTarget[];
  /** How many functions it was attached to so far: also those whose library is gone. */
  readonly attached: number;
  /** What was left out under `skipInvalid`. */
  readonly skipped: readonly SkippedFunction[];
  /** How long the machine stood still for the last change, ms. */
  readonly pauseMs: number;
  /** How long attaching took so far, of all functions that joined, ms. */
  readonly attachMs: number;
  /** Calls that the program did not see, because the thread was inside it already. */
  readonly missed: bigint;
  info(): LinkInfo;
  /**
   * `BPF_LINK_UPDATE`: runs another program from now on, in one stop: each event of a call is seen by the old or by the
   * new one. Cookies stay; a call under way that the old one saw enter is seen by the new one at its return. Throws
   * EINVAL where the program is of another type or does not fit a function of the link, EPERM where `oldProg`
   * (`BPF_F_REPLACE`) is not the one that it has; nothing is changed then.
   */
  update(prog: BpfProg, options?: { readonly oldProg?: BpfProg }): void;
  /** Restores every function. The link is of no use afterwards. */
  detach(): void;
}

/** One program on one function (`bpf_tracing_link`). */
export interface TracingLink extends BpfLink {
  readonly kind: 'tracing';
}

/** One program on many functions (`bpf_tracing_multi_link`). */
export interface TracingMultiLink extends BpfLink {
  readonly kind: 'tracing_multi';
  readonly way: Way;
  /** Joins more targets to the link, all or nothing unless `skipInvalid`. */
  add(targets: readonly LinkTarget[]): void;
}

/** How one function would be attached, or why not. */
export interface TargetCheck {
  readonly target: TargetFunction;
  /** Where the patch goes: address, bytes, kind. */
  readonly site?: { readonly address: bigint; readonly length: number; readonly kind: string };
  readonly refused?: SkipReason;
}

/** What an object may name of a kernel: its functions for programs, its variables, its settings. */
export interface KernelNames {
  /** The number by which instructions name a kernel function; `undefined` where there is none. */
  kfuncNumber(name: string): number | undefined;
  /** The address of a kernel variable or function (`.ksyms`); `undefined` where there is none. */
  ksymAddress(name: string): bigint | undefined;
  /** The BTF id of a kernel variable that has a type; `undefined` where there is none. */
  ksymTypeId(name: string): number | undefined;
  /** A setting of the kernel (`.kconfig`): a number, or a text; `undefined` where it is not set. */
  kconfig(name: string): bigint | string | undefined;
}

export interface Kernel {
  /** How many values a per-CPU map has for each key. */
  readonly possibleCpus: number;
  /** `false`: no functions come later, as those of libraries do, so that nobody need make room for them. */
  readonly growing?: false;
  /**
   * A process: functions whose result modify-return programs may change, which changes what the program does; none where it
   * is not set. The kernel has a list of its own.
   */
  allowModifyReturn?: SelectorSet | undefined;
  mapCreate(attr: MapCreateAttr): BpfMap;
  /**
   * `BPF_ENABLE_STATS`: programs that are loaded from now on count their runs and time. Throws EOPNOTSUPP where time can't
   * be measured.
   */
  enableStats(): void;
  /** Verifies and compiles. Throws EACCES or EINVAL with the verifier's sentence. */
  progLoad(attr: ProgLoadAttr): BpfProg;
  /** A plain link for one `target`, a multi-link for `targets`. */
  linkCreate(attr: LinkCreateAttr): TracingLink;
  linkCreate(attr: MultiLinkCreateAttr): TracingMultiLink;
  /** The functions that the selectors match now. */
  functions(selectors: SelectorSet): TargetFunction[];
  /**
   * The functions of these names, `[MODULE:]FUNCTION` without patterns, a list for each: none where there is none,
   * several where several modules have one.
   */
  functionsNamed(names: readonly string[]): TargetFunction[][];
  /** The function that begins at an address. */
  functionAt(address: bigint): TargetFunction | undefined;
  /** What `linkCreate` would do with each, without doing it. */
  check(targets: readonly TargetFunction[]): TargetCheck[];
  /** Names of the modules that are there now. */
  modules(): string[];
  /**
   * What a function takes and returns, where its module's types say so; `undefined` for an opaque one. May take seconds
   * the first time: types may have to be made from debug information.
   */
  prototypeOf(target: TargetFunction): FunctionPrototype | undefined;
  /** Types of a module (CO-RE relocates against them); `undefined` where it has none. */
  moduleTypes(module: string): Btf | undefined;
  /** What objects name of a kernel, besides the functions that they trace. */
  readonly names: KernelNames;
  /** Whether some program that is loaded may print lines. */
  readonly mayPrint: boolean;
  /** Lines that programs printed with `bpf_trace_printk` since the last call. */
  readTrace(): string[];
  /** Detaches every link and gives the machine back as it was. */
  close(): void;
}
