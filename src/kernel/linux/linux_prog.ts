/**
 * A program of the kernel machine. The kernel wants to know what a program will be attached to when it is loaded: one program of
 * ours is several of the kernel's, each loaded when a link first wants it, and all let go of with the last link.
 */

import { HELPER } from '../../bpf/helpers.js';
import { callLayout } from '../../process/symbols/call_layout.js';
import type { TypedAccess } from '../agreement.js';
import { BpfError } from '../errno.js';
import type { AttachType, BpfProg, FunctionPrototype, ProgLoadAttr, TargetFunction, Way } from '../kernel.js';
import type { Fd } from './bpf.js';
import { kernelBtf } from './btf_object.js';
import {
  type ContextProgram,
  type ContextUse,
  contextUse,
  rewriteContext,
  savedState,
} from './context/rewrite.js';
import { kprobeForms, nativeForm, type PartForm, plainForms } from './forms.js';
import type { LinuxHost } from './host.js';
import { KERNEL_MODULE } from './kernel_types.js';
import type { LinuxMap } from './map.js';
import { type LoadedProg, type LoadRequest, progInfo } from './program.js';
import { SavedCalls } from './saved_calls.js';

/** What a program without a licence says. */
const LICENSE = 'Dual MIT/GPL';
/** A program that is for no function that is known is verified for this one, where it must be for one. */
const ANY_FUNCTION = 'bpf_fentry_test1';

/** One of the kernel's programs that a program is. */
export interface Part {
  readonly form: PartForm;
  readonly loaded: LoadedProg;
  /** Whoever asked for it lets go of it (`LinuxProg.retire`); others stay until the program goes. */
  readonly own: boolean;
}

type Where = Pick<LoadRequest, 'attachBtfId' | 'attachBtfFd'>;

/** A function in the BTF of its module. */
export interface BtfTarget {
  readonly target: TargetFunction;
  readonly btfId: number;
}

export class LinuxProg implements BpfProg {
  readonly attr: ProgLoadAttr;
  readonly name: string;
  readonly attachType: AttachType;
  /** The way for which it was loaded at first. */
  way: Way | undefined;
  readonly #host: LinuxHost;
  /** What links share, by what it is attached to. */
  readonly #shared = new Map<string, readonly Part[]>();
  /** All that are loaded now, and the runs of those that went. */
  readonly #loaded = new Set<LoadedProg>();
  #past = { runCount: 0n, runTimeNs: 0n };
  readonly #saved: SavedCalls;
  #first: LoadedProg | undefined;
  #knownUse: ContextUse | undefined;
  #users = 1;
  #freed = false;

  constructor(host: LinuxHost, attr: ProgLoadAttr) {
    this.#host = host;
    this.attr = forItsTarget(host, attr);
    this.name = attr.name;
    this.attachType = attr.attachType;
    this.#saved = new SavedCalls(host);
  }

  /** Loads it for one function, so that the verifier's refusal comes now. Throws it. */
  load(): void {
    const { target } = this.attr;
    const btfId = target && this.#host.targets.btfOf(target)?.id;
    if (target === undefined || btfId === undefined)
      throw new BpfError(
        'EINVAL',
        `program ${this.name}: a program for one function is verified for that function, and ${target === undefined ? 'it names none that is there' : `the kernel has no types of ${target.name}`}`,
      );
    this.#first = this.loadPlain({ target, btfId }, this.#saved)[0].loaded;
  }

  /** Loads it for many functions, in one way. Throws the verifier's refusal, EOPNOTSUPP where the way can't be. */
  loadFor(way: Way): void {
    if (way === 'tracing_multi') this.#first = this.loadNative(this.attr.target?.module ?? KERNEL_MODULE);
    else if (way === 'kprobe_multi') this.#first = this.loadKprobe(this.#saved)[0].loaded;
    else {
      const target = this.attr.target ?? this.#host.targets.named([ANY_FUNCTION])[0][0];
      const btfId = target && this.#host.targets.btfOf(target)?.id;
      if (btfId !== undefined) this.#first = this.loadPlain({ target, btfId }, this.#saved)[0].loaded;
    }
  }

  get id(): number {
    return this.#first === undefined ? 0 : progInfo(this.#first.fd.number).id;
  }
  /** For arrays of programs. */
  get fd(): Fd {
    if (this.#first === undefined) throw new BpfError('EBADF', `program ${this.name} is not loaded`);
    return this.#first.fd;
  }

  get accessedArgs(): readonly number[] {
    return this.#use.accessedArgs;
  }
  /** What it takes by the types of the function that it was verified for. */
  get access(): TypedAccess {
    return { args: this.#use.typedArgs, result: this.#use.typedResult };
  }
  /** It asks for arguments by number, or for how many there are: by the helpers that know each function's. */
  get asksForArguments(): boolean {
    const { helpers } = this.#use;
    return helpers.has(HELPER.get_func_arg) || helpers.has(HELPER.get_func_arg_cnt);
  }
  get #use(): ContextUse {
    this.#knownUse ??= contextUse(this.#program);
    return this.#knownUse;
  }
  get #program(): ContextProgram {
    return { ...this.attr, prototype: this.attr.target?.prototype };
  }
  get jitedSize(): number {
    return this.#first === undefined ? 0 : progInfo(this.#first.fd.number).jitedSize;
  }
  get log(): string | undefined {
    return this.#first?.log || undefined;
  }
  get stats(): { readonly runCount: bigint; readonly runTimeNs: bigint } | undefined {
    let { runCount, runTimeNs } = this.#past;
    for (const { fd } of this.#loaded) {
      const info = progInfo(fd.number);
      runCount += info.runCount;
      runTimeNs += info.runTimeNs;
    }
    return { runCount, runTimeNs };
  }

  /**
   * For one function, in the order in which the parts are attached. `own`: for the caller alone, unless it is loaded already.
   */
  loadPlain({ target, btfId }: BtfTarget, saved: SavedCalls, own = false): readonly Part[] {
    const { prototype } = this.attr.target ?? {};
    const words = (of: FunctionPrototype | undefined): number => callLayout(of).words.length;
    // The result is behind the arguments: with more or fewer of them it is elsewhere.
    const alike =
      prototype !== undefined &&
      (!this.#use.typedResult || words(prototype) === words(this.#host.targets.prototypeOf(target)));
    const sessions = this.attachType === 'fsession' && this.#host.features.has('fsession');
    const forms = plainForms(this.attachType, alike ? 'typed' : 'trampoline', { sessions });
    const where = { attachBtfId: btfId, attachBtfFd: this.#host.btfFd(target.module) };
    return this.#parts(`${target.module} ${btfId}`, forms, where, saved, own);
  }

  /** For a native multi-link to functions of one module. */
  loadNative(module: string): LoadedProg {
    const where = { attachBtfFd: this.#host.btfFd(module) };
    return this.#parts(`multi ${module}`, [nativeForm(this.attachType)], where, this.#saved)[0].loaded;
  }

  /** For kprobe multi-links, in the order in which the parts are attached. */
  loadKprobe(saved: SavedCalls): readonly Part[] {
    if (this.attr.sleepable)
      throw new BpfError(
        'EOPNOTSUPP',
        `program ${this.name} may sleep, and programs of kprobe multi-links may not`,
      );
    const sessions = this.attachType !== 'fentry' && this.#host.features.has('kprobe_session');
    return this.#parts('kprobe', kprobeForms(this.attachType, this.#use, { sessions }), {}, saved);
  }

  /** What is there already, or else loaded. */
  #parts(
    key: string,
    forms: readonly PartForm[],
    where: Where,
    saved: SavedCalls,
    own = false,
  ): readonly Part[] {
    const known = this.#shared.get(key);
    if (known !== undefined) return known;
    const [state] = forms.flatMap(({ context }) => savedState(this.#program, context, this.#use) ?? []);
    const map = state && saved.map(state);
    // What is handed on between them is one link's alone.
    const shared = map === undefined && !own;
    const parts: Part[] = [];
    try {
      for (const form of forms) parts.push({ form, loaded: this.#load(form, where, map), own: !shared });
    } catch (cause) {
      for (const { loaded } of parts) this.retire(loaded);
      throw cause;
    }
    if (shared) this.#shared.set(key, parts);
    return parts;
  }

  /** Where the kernel's context is another than the program reads, with a main program before it. */
  #load({ context, type, attach }: PartForm, where: Where, saved: LinuxMap | undefined): LoadedProg {
    const { license, sleepable, logLevel } = this.attr;
    const options = { use: this.#use, ...(saved === undefined ? {} : { saved }) };
    const rewritten = rewriteContext(this.#program, context, this.#host.contextKernel, options);
    const { insns, btf, funcInfo, lineInfo, wrapped } = rewritten;
    const loaded = this.#host.load({
      ...where,
      type,
      attachType: attach,
      name: this.name,
      insns,
      license: license || LICENSE,
      types: btf === undefined ? undefined : kernelBtf(btf, lineInfo, { staticFunctions: wrapped }),
      funcInfo,
      sleepable: sleepable ?? false,
      logLevel: logLevel ?? 0,
    });
    this.#loaded.add(loaded);
    return loaded;
  }

  /** Whoever has a part of its own needs it no more. */
  retire(loaded: LoadedProg): void {
    if (!this.#loaded.delete(loaded)) return;
    const { runCount, runTimeNs } = progInfo(loaded.fd.number);
    this.#past = {
      runCount: this.#past.runCount + runCount,
      runTimeNs: this.#past.runTimeNs + runTimeNs,
    };
    loaded.fd.close();
  }

  /** A link has it. */
  use(): void {
    this.#users++;
  }

  /** A link has it no more. */
  release(): void {
    if (--this.#users > 0) return;
    for (const loaded of this.#loaded) this.retire(loaded);
    this.#saved.close();
  }

  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.release();
  }
}

/** A program that calls others of an array has no prototype from its loader; Linux verifies it for its target's all the same. */
function forItsTarget(host: LinuxHost, attr: ProgLoadAttr): ProgLoadAttr {
  const { target, forAnyFunction, multi } = attr;
  if (!forAnyFunction || multi || target === undefined) return attr;
  const prototype = host.targets.prototypeOf(target);
  return prototype === undefined ? attr : { ...attr, target: { ...target, prototype } };
}
