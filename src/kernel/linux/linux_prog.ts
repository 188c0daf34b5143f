/**
 * A program of the kernel machine. The kernel wants to know what a program will be attached to when it is loaded: one program of
 * ours is several of the kernel's, each loaded when a link first wants it, and all let go of with the last link.
 */

import type { TypedAccess } from '../agreement.js';
import { BpfError } from '../errno.js';
import type { AttachType, BpfProg, ProgLoadAttr } from '../kernel.js';
import { type Fd, PROG_TYPE } from './bpf.js';
import { kernelBtf } from './btf_object.js';
import {
  type ContextForm,
  type ContextProgram,
  type ContextUse,
  contextUse,
  rewriteContext,
} from './context/rewrite.js';
import { type LinuxHost, NATIVE_MULTI, PLAIN, type TypedTarget } from './host.js';
import { KERNEL_MODULE } from './kernel_types.js';
import { type LoadedProg, type LoadRequest, progInfo } from './program.js';

/** What a program without a licence says. */
const LICENSE = 'Dual MIT/GPL';

export class LinuxProg implements BpfProg {
  readonly attr: ProgLoadAttr;
  readonly name: string;
  readonly attachType: AttachType;
  readonly #host: LinuxHost;
  readonly #forms = new Map<string, LoadedProg>();
  #first: LoadedProg | undefined;
  #knownUse: ContextUse | undefined;
  #users = 1;
  #freed = false;

  constructor(host: LinuxHost, attr: ProgLoadAttr) {
    this.#host = host;
    this.attr = attr;
    this.name = attr.name;
    this.attachType = attr.attachType;
  }

  /**
   * Loads it in the form that it will most probably be attached in, so that the verifier's refusal comes now. Throws it.
   */
  load(): void {
    const { multi, target } = this.attr;
    if (multi) {
      this.#first = this.loadNative(target?.module ?? KERNEL_MODULE);
      return;
    }
    const btfId = target && this.#host.targets.btfOf(target)?.id;
    if (target === undefined || btfId === undefined)
      throw new BpfError(
        'EINVAL',
        `program ${this.name}: a program for one function is verified for that function, and ${target === undefined ? 'it names none that is there' : `the kernel has no types of ${target.name}`}`,
      );
    this.#first = this.loadPlain({ target, btfId, cookie: 0n });
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
    let [runCount, runTimeNs] = [0n, 0n];
    for (const { fd } of this.#forms.values()) {
      const info = progInfo(fd.number);
      runCount += info.runCount;
      runTimeNs += info.runTimeNs;
    }
    return { runCount, runTimeNs };
  }

  /** For a plain link: verified for that very function. */
  loadPlain({ target, btfId }: TypedTarget): LoadedProg {
    return this.#form(`${target.module} ${btfId}`, {
      type: PROG_TYPE.TRACING,
      attachType: PLAIN[this.attachType],
      attachBtfId: btfId,
      attachBtfFd: this.#host.btfFd(target.module),
    });
  }

  /** For a native multi-link to functions of one module. */
  loadNative(module: string): LoadedProg {
    const { attachType } = this;
    const runs = attachType === 'fsession' ? 'session' : attachType === 'fexit' ? 'return' : 'entry';
    return this.#form(
      `multi ${module}`,
      {
        type: PROG_TYPE.TRACING,
        attachType: NATIVE_MULTI[attachType] as number,
        attachBtfFd: this.#host.btfFd(module),
      },
      { context: 'trampoline', runs },
    );
  }

  /** Loads it as `kind`; where the kernel's context is another than it reads, with a main program before it. */
  #form(
    key: string,
    kind: Pick<LoadRequest, 'type' | 'attachType' | 'attachBtfId' | 'attachBtfFd'>,
    context?: ContextForm,
  ): LoadedProg {
    const known = this.#forms.get(key);
    if (known !== undefined) return known;
    const { license, sleepable, logLevel } = this.attr;
    const { insns, btf, funcInfo, lineInfo, wrapped } =
      context === undefined
        ? { ...this.attr, wrapped: false }
        : rewriteContext(this.#program, context, this.#host.contextKernel, { use: this.#use });
    const loaded = this.#host.load({
      ...kind,
      name: this.name,
      insns,
      license: license || LICENSE,
      types: btf === undefined ? undefined : kernelBtf(btf, lineInfo ?? [], { staticFunctions: wrapped }),
      funcInfo: funcInfo ?? [],
      sleepable: sleepable ?? false,
      logLevel: logLevel ?? 0,
    });
    this.#forms.set(key, loaded);
    return loaded;
  }

  /** A link has it. */
  use(): void {
    this.#users++;
  }

  /** A link has it no more. */
  release(): void {
    if (--this.#users > 0) return;
    for (const { fd } of this.#forms.values()) fd.close();
  }

  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.release();
  }
}
