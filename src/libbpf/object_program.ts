/** A program of an object: what its section says, what is set before loading, the loaded program and its link. */

import { MAP_TYPE } from '../bpf/map_type.js';
import type { Btf } from '../btf/btf.js';
import { BpfError } from '../kernel/errno.js';
import type {
  AttachType,
  BpfProg,
  FunctionPrototype,
  Kernel,
  LinkTarget,
  SkippedFunction,
  TargetFunction,
  TracingMultiLink,
} from '../kernel/kernel.js';
import { SelectorSet } from '../process/symbols/selector.js';
import type { BpfFunction } from './functions.js';
import type { LinkedProgram } from './link.js';
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
  /** Programs that the file puts into program arrays. */
  readonly tailCalled: ReadonlySet<string>;
}

export interface AttachOptions {
  /** These functions, instead of what the selectors match. */
  readonly targets?: readonly TargetFunction[];
  /** What `bpf_get_attach_cookie` gives at each; 0 where left out. */
  readonly cookie?: (target: TargetFunction) => bigint;
  /** Fail as a whole where a function can't be attached, instead of leaving it out. */
  readonly strict?: boolean;
}

export class ObjectProgram {
  readonly spec: ProgramSpec;
  /** Set before loading: whether `load` loads it, and `attach` of the object attaches it. */
  autoload: boolean;
  autoattach = true;
  #selectors: readonly string[];
  #set: SelectorSet | undefined;
  #prog: BpfProg | undefined;
  #link: TracingMultiLink | undefined;
  #linked: LinkedProgram | undefined;
  #forAnyFunction = false;
  #unresolved: readonly SkippedFunction[] = [];

  constructor(spec: ProgramSpec) {
    this.spec = spec;
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
  get link(): TracingMultiLink | undefined {
    return this.#link;
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
  get attached(): number {
    return this.#link?.targets.length ?? 0;
  }
  get skipped(): readonly SkippedFunction[] {
    return [...(this.#link?.skipped ?? []), ...this.#unresolved];
  }
  get missed(): bigint {
    return (this.#link?.missed ?? 0n) + (this.#prog?.missed ?? 0n);
  }

  /** The functions that it is for, as they are there now; none where it has no selectors. */
  matches(kernel: Kernel): TargetFunction[] {
    if (this.#selectors.length === 0) return [];
    this.#set ??= SelectorSet.parse(this.#selectors);
    return kernel.functions(this.#set);
  }

  /** Verifies and compiles it for `targets`. */
  load(host: ProgramHost, targets: readonly TargetFunction[]): void {
    if (this.#prog !== undefined) return;
    const { attachType, sleepable } = this.#kind;
    const linked = host.link(this, targets);
    this.#forAnyFunction =
      host.tailCalled.has(this.name) || linked.maps.some(({ type }) => type === MAP_TYPE.PROG_ARRAY);
    const target = this.#forAnyFunction ? undefined : withSharedPrototype(host.kernel, targets);
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
        ...(sleepable ? { sleepable } : {}),
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
   * Attaches it to what its selectors match now and did not before, and returns how many functions that are. A program
   * that was not loaded for want of a function is loaded now. Throws EINVAL without selectors and targets.
   */
  attach(host: ProgramHost, options: AttachOptions = {}): number {
    const { kernel } = host;
    if (options.targets === undefined && this.#selectors.length === 0)
      throw new BpfError(
        'EINVAL',
        `program ${this.name} (section "${this.section}") has no target; name it in the section, SEC("${this.#kind.text}/libc:malloc"), or with --target ${this.name}=SELECTOR`,
      );
    const matched = options.targets ?? this.matches(kernel);
    const done = new Set(this.#link?.targets.map(({ target }) => target.address));
    for (const { address } of this.#link?.skipped ?? []) done.add(address);
    this.#unresolved = matched.flatMap(({ unresolved, module, name, address }) =>
      unresolved === undefined ? [] : [{ ...unresolved, module, function: name, address }],
    );
    const fresh = matched.filter(({ unresolved, address }) => unresolved === undefined && !done.has(address));
    if (fresh.length === 0) return 0;
    this.load(host, fresh);
    const targets: LinkTarget[] = fresh.map(target => ({ target, cookie: options.cookie?.(target) ?? 0n }));
    const before = this.attached;
    if (this.#link === undefined)
      this.#link = kernel.linkCreate({ prog: this.prog, targets, skipInvalid: !options.strict });
    else this.#link.add(targets);
    return this.attached - before;
  }

  detach(): void {
    this.#link?.detach();
    this.#link = undefined;
  }

  forget(): void {
    this.#link = undefined;
    this.#prog = undefined;
    this.#linked = undefined;
    this.#unresolved = [];
  }
}

/** What CO-RE did not find at the instruction that the verifier refused. */
function missingTypes({ poisoned }: LinkedProgram, message: string): string {
  const slot = /^insn (\d+):/.exec(message)?.[1];
  const found = poisoned.find(one => String(one.slot) === slot);
  return found === undefined ? '' : `: ${found.reason}`;
}

/**
 * The function that a program is verified against: the first, where all take and return the same. Functions that
 * differ have nothing in common but their registers: the program is verified for an opaque one.
 */
function withSharedPrototype(kernel: Kernel, targets: readonly TargetFunction[]): TargetFunction | undefined {
  const [first, ...others] = targets;
  const prototype = first && kernel.prototypeOf(first);
  if (prototype === undefined) return undefined;
  const wanted = spelled(prototype);
  const isSame = (other: TargetFunction): boolean => {
    const theirs = kernel.prototypeOf(other);
    return theirs !== undefined && spelled(theirs) === wanted;
  };
  return others.every(isSame) ? { ...first, prototype } : undefined;
}

function spelled({ nargs, btf, args, returns }: FunctionPrototype): string {
  if (btf === undefined) return String(nargs);
  const names = [...(args ?? []), ...(returns === undefined ? [] : [returns])].map(id => btf.typeName(id));
  return `${nargs} ${names.join(', ')}`;
}
