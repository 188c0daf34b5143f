/** A program of an object: what its section says, what is set before loading, the loaded program and its link. */

import { MAP_TYPE } from '../bpf/map_type.js';
import type { Btf } from '../btf/btf.js';
import { BpfError } from '../kernel/errno.js';
import type {
  AttachType,
  BpfLink,
  BpfProg,
  Kernel,
  LinkPattern,
  LinkTarget,
  SkippedFunction,
  TargetFunction,
  TracingMultiLink,
} from '../kernel/kernel.js';
import { RefusedTargetError } from '../kernel/refused.js';
import { SelectorSet } from '../process/symbols/selector.js';
import type { BpfFunction } from './functions.js';
import type { LinkedProgram } from './link.js';
import { type MultiTargets, matchInOrder, resolveTargets } from './multi_targets.js';
import type { Pins } from './pins.js';
import { parseSectionName, type SectionName, splitSelectors } from './section_name.js';

/** What the file says of a program. */
export interface ProgramSpec {
  readonly name: string;
  readonly section: string;
  /** `undefined` for a type that does not exist here; `refused` says why. */
  readonly kind: SectionName | undefined;
  readonly refused: BpfError | undefined;
  readonly fn: BpfFunction;
}

/** Reads what a program's section says; a type that there is not is refused when the program is loaded. */
export function programSpec(fn: BpfFunction): ProgramSpec {
  const { name, section } = fn;
  try {
    return { name, section: section.name, kind: parseSectionName(section.name), refused: undefined, fn };
  } catch (cause) {
    if (!(cause instanceof BpfError)) throw cause;
    const refused = new BpfError(cause.code, `program ${name}: ${cause.message}`, { cause });
    return { name, section: section.name, kind: undefined, refused, fn };
  }
}

/** What an object does for its programs. */
export interface ProgramHost {
  readonly kernel: Kernel;
  link(program: ObjectProgram, targets: readonly TargetFunction[]): LinkedProgram;
  readonly btf: Btf | undefined;
  readonly logLevel: number | undefined;
  readonly license: string;
  /** Some program of the object looks up what per-CPU maps hold for other threads. */
  readonly sharesCpus: boolean;
  /** Programs that the file puts into program arrays. */
  readonly tailCalled: ReadonlySet<string>;
}

export interface AttachOptions {
  /** What `bpf_get_attach_cookie` gives at each; 0 where left out. */
  readonly cookie?: (target: TargetFunction) => bigint;
  /** Fail as a whole where a function can't be attached, instead of leaving it out. */
  readonly strict?: boolean;
}

/** Where a program goes by one multi-link. */
export type AttachMultiOptions = MultiTargets & {
  /** Leave out what can't be attached, and what there is not: `skipped` has the list. */
  readonly skipInvalid?: boolean;
};

export class ObjectProgram {
  readonly spec: ProgramSpec;
  /** Set before loading: whether `load` loads it, and `attach` of the object attaches it. */
  autoload: boolean;
  autoattach = true;
  #selectors: readonly string[];
  #set: SelectorSet | undefined;
  readonly #host: () => ProgramHost;
  #prog: BpfProg | undefined;
  readonly #links: BpfLink[] = [];
  /** The link that `attach` made. */
  #own: BpfLink | undefined;
  #linked: LinkedProgram | undefined;
  #forAnyFunction = false;
  /** It was verified without a target, for none was known. */
  #untargeted = false;
  #left: readonly SkippedFunction[] = [];

  /** `host`: the object's; throws EBADF before the object is loaded. */
  constructor(spec: ProgramSpec, host: () => ProgramHost) {
    this.spec = spec;
    this.#host = host;
    this.autoload = spec.kind?.autoload ?? !spec.section.startsWith('?');
    this.#selectors = spec.kind?.selectors ?? [];
  }

  get name(): string {
    return this.spec.name;
  }
  get section(): string {
    return this.spec.section;
  }
  /** Throws EOPNOTSUPP for a type that there is not. */
  get attachType(): AttachType {
    return this.#kind.attachType;
  }
  get #kind(): SectionName {
    if (this.spec.kind === undefined) throw this.spec.refused!;
    return this.spec.kind;
  }

  /** What it is attached to: those of its section, or those that were set. */
  get selectors(): readonly string[] {
    return this.#selectors;
  }

  /** Sets what it is attached to, before it is: selectors, apart by commas or spaces. Throws EINVAL for a bad one. */
  setTarget(selectors: string | readonly string[]): void {
    if (this.#prog !== undefined)
      throw new BpfError('EBUSY', `program ${this.name} is loaded; set its target before`);
    const texts = typeof selectors === 'string' ? splitSelectors(selectors) : selectors;
    this.#set = SelectorSet.parse(texts);
    this.#selectors = texts;
  }

  get loaded(): boolean {
    return this.#prog !== undefined;
  }
  /** The loaded program. Throws EBADF before. */
  get prog(): BpfProg {
    if (this.#prog !== undefined) return this.#prog;
    throw new BpfError('EBADF', `program ${this.name} is not loaded`);
  }
  /** The link that `attach` made, or the first of the others. */
  get link(): BpfLink | undefined {
    return this.#own ?? this.#links[0];
  }
  /** Every link that was made of it and not detached through it. */
  get links(): readonly BpfLink[] {
    return this.#links;
  }
  /** The program as it was given to the machine. */
  get linked(): LinkedProgram | undefined {
    return this.#linked;
  }
  /**
   * It is in a program array, or calls through one: such programs run for each other's targets, so that each is
   * verified for a function of which nothing is known.
   */
  get forAnyFunction(): boolean {
    return this.#forAnyFunction;
  }
  /** How many functions its links were attached to so far. */
  get attached(): number {
    return this.#links.reduce((sum, { attached }) => sum + attached, 0);
  }
  get skipped(): readonly SkippedFunction[] {
    return [...this.#links.flatMap(({ skipped }) => skipped), ...this.#left];
  }
  get missed(): bigint {
    return this.#links.reduce((sum, { missed }) => sum + missed, this.#prog?.missed ?? 0n);
  }

  /** The functions that it is for, as they are there now, those of the first selector first; none without selectors. */
  matches(kernel: Kernel): TargetFunction[] {
    if (this.#selectors.length === 0) return [];
    this.#set ??= SelectorSet.parse(this.#selectors);
    return matchInOrder(kernel, this.#set);
  }

  /** Verifies and compiles it, against the first of `targets`. */
  load(targets: readonly TargetFunction[]): void {
    if (this.#prog !== undefined) return;
    const host = this.#host();
    const { attachType, sleepable, multi } = this.#kind;
    const linked = host.link(this, targets);
    this.#forAnyFunction =
      host.tailCalled.has(this.name) || linked.maps.some(({ type }) => type === MAP_TYPE.PROG_ARRAY);
    this.#untargeted = targets.length === 0;
    const target = this.#forAnyFunction ? targets[0] : withPrototype(host.kernel, targets[0]);
    this.#linked = linked;
    try {
      this.#prog = host.kernel.progLoad({
        name: this.name,
        attachType,
        insns: linked.insns,
        maps: linked.maps,
        ...(host.btf === undefined ? {} : { btf: host.btf }),
        ...(linked.funcInfo.length === 0 ? {} : { funcInfo: linked.funcInfo }),
        ...(linked.lineInfo.length === 0 ? {} : { lineInfo: linked.lineInfo }),
        ...(target === undefined ? {} : { target }),
        ...(this.#forAnyFunction ? { forAnyFunction: true } : {}),
        license: host.license,
        multi,
        ...(sleepable ? { sleepable } : {}),
        ...(host.sharesCpus ? { sharesCpus: true } : {}),
        ...(host.logLevel === undefined ? {} : { logLevel: host.logLevel }),
      });
    } catch (cause) {
      if (!(cause instanceof BpfError)) throw cause;
      const why = missingTypes(linked, cause.message);
      throw new BpfError(cause.code, `program ${this.name} (${this.section}): ${cause.message}${why}`, {
        cause,
      });
    }
  }

  /**
   * Attaches it as its section says, and returns to how many functions. A plain program goes to its function; a `.multi`
   * program to all that its selectors match, now and when libraries come. What can't be attached is left out, unless
   * `strict`. Returns 0 for a program that is attached, or whose functions are not there yet: call it again when
   * libraries came. Throws EINVAL without selectors, and for a plain program that matches several functions.
   */
  attach(options: AttachOptions = {}): number {
    if (this.#own !== undefined) return 0;
    const { kernel } = this.#host();
    if (this.#selectors.length === 0)
      throw new BpfError(
        'EINVAL',
        `program ${this.name} (section "${this.section}") has no target; name it in the section, SEC("${this.#kind.text}/libc:malloc"), or with --target ${this.name}=SELECTOR`,
      );
    const matched = this.matches(kernel);
    const there = matched.filter(({ unresolved }) => unresolved === undefined);
    this.#left = matched.flatMap(({ unresolved, module, name, address }) =>
      unresolved === undefined ? [] : [{ ...unresolved, module, function: name, address }],
    );
    if (there.length === 0) return 0;
    if (!this.#kind.multi) return this.#attachPlain(there, options);
    // The link has those that are not resolved on its own list.
    this.#left = [];
    const { cookie, strict = false } = options;
    const pattern = { selectors: this.#set!, ...(cookie === undefined ? {} : { cookie }) };
    const targets = (strict ? there : matched).map(target => ({
      target,
      cookie: target.unresolved === undefined ? (cookie?.(target) ?? 0n) : 0n,
    }));
    this.#own = this.#multiLink(there, targets, pattern, !strict);
    return this.#own.targets.length;
  }

  #attachPlain(there: readonly TargetFunction[], { cookie, strict = false }: AttachOptions): number {
    const [target] = there;
    if (there.length > 1)
      throw new BpfError(
        'EINVAL',
        `program ${this.name} (section "${this.section}") is for one function, and ${there.length} match: ${names(there)}; name one with its module, or make it SEC("${this.attachType}.multi/…")`,
      );
    this.load(there);
    try {
      this.#own = this.#host().kernel.linkCreate({ prog: this.prog, target, cookie: cookie?.(target) ?? 0n });
    } catch (cause) {
      if (strict || !(cause instanceof RefusedTargetError)) throw cause;
      this.#left = [cause.refused];
      return 0;
    }
    this.#links.push(this.#own);
    return 1;
  }

  #multiLink(
    there: readonly TargetFunction[],
    targets: readonly LinkTarget[],
    pattern: LinkPattern | undefined,
    skipInvalid: boolean,
  ): TracingMultiLink {
    // Nothing was known of its functions when it was loaded: now the first is.
    if (this.#prog !== undefined && this.#untargeted && this.#links.length === 0 && there.length > 0) {
      const { prog } = this;
      this.#prog = undefined;
      try {
        this.load(there);
      } catch (cause) {
        this.#prog ??= prog;
        throw cause;
      }
      prog.free();
    }
    this.load(there);
    const { prog } = this;
    const attr = { prog, targets, skipInvalid };
    const link = this.#host().kernel.linkCreate(pattern === undefined ? attr : { ...attr, pattern });
    this.#links.push(link);
    return link;
  }

  /**
   * Attaches a `.multi` program by one more link: by selectors, names, ids of BTF functions or addresses, with cookies.
   * Where it was not loaded for a function before, it is verified against the first. All or nothing, unless
   * `skipInvalid`. Throws EINVAL for a plain program, ENOENT for a function that there is not, EINVAL for a name that
   * several modules have and for a function that the program does not fit, EEXIST for one that is named twice.
   */
  attachMulti(options: AttachMultiOptions): TracingMultiLink {
    if (!this.#kind.multi)
      throw new BpfError(
        'EINVAL',
        `program ${this.name} (section "${this.section}") is for one function; attachTracing attaches it to many`,
      );
    return this.#attachTo(options);
  }

  /**
   * Attaches a program that was written for one function, `SEC("fentry/lib:function")`, as a multi program whose target
   * is that function: to it alone, or to functions that agree with it. Throws as `attachMulti`, and EINVAL for a
   * `.multi` program.
   */
  attachTracing(options?: AttachMultiOptions): TracingMultiLink {
    if (this.#kind.multi)
      throw new BpfError(
        'EINVAL',
        `program ${this.name} (section "${this.section}") is for many functions already; attach it with attachMulti`,
      );
    if (this.#prog === undefined) {
      const own = this.matches(this.#host().kernel).filter(({ unresolved }) => unresolved === undefined);
      if (own.length > 0) this.load(own);
    }
    return this.#attachTo(options ?? { selectors: this.#selectors });
  }

  #attachTo({ skipInvalid = false, ...wanted }: AttachMultiOptions): TracingMultiLink {
    const { kernel } = this.#host();
    const { targets, pattern, missing } = resolveTargets(kernel, wanted, skipInvalid);
    const there = targets.flatMap(({ target }) => (target.unresolved === undefined ? [target] : []));
    if (there.length === 0 && pattern === undefined)
      throw new BpfError('ENOENT', `program ${this.name}: none of the functions is there to attach it to`);
    const link = this.#multiLink(there, targets, pattern, skipInvalid);
    this.#left = [...this.#left, ...missing];
    return link;
  }

  /** Detaches every link that is not pinned. */
  detach(pins?: Pins): void {
    for (const link of this.#links) if (pins?.holdsLink(link) !== true) link.detach();
    this.#links.length = 0;
    this.#own = undefined;
  }

  /** Detaches it and lets go of the loaded program, which stays while a pinned link or a program array has it. */
  unload(pins?: Pins): void {
    this.detach(pins);
    this.#prog?.free();
    this.forget();
  }

  forget(): void {
    this.#links.length = 0;
    this.#own = undefined;
    this.#prog = undefined;
    this.#linked = undefined;
    this.#left = [];
  }
}

function names(functions: readonly TargetFunction[]): string {
  const some = functions.slice(0, 3).map(({ module, name }) => `${module}:${name}`);
  return `${some.join(', ')}${functions.length > some.length ? ', …' : ''}`;
}

/** What CO-RE did not find at the instruction that the verifier refused. */
function missingTypes({ poisoned }: LinkedProgram, message: string): string {
  const slot = /^insn (\d+):/.exec(message)?.[1];
  const found = poisoned.find(one => String(one.slot) === slot);
  return found === undefined ? '' : `: ${found.reason}`;
}

/** The function with what it takes and returns; `undefined` for an opaque one, as for none. */
function withPrototype(kernel: Kernel, target: TargetFunction | undefined): TargetFunction | undefined {
  const prototype = target && kernel.prototypeOf(target);
  return target && prototype && { ...target, prototype };
}
