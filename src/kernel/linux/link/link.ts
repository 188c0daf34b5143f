/** What every link of the kernel machine has. */

import { disagreement } from '../../agreement.js';
import { BpfError } from '../../errno.js';
import type {
  BpfLink,
  BpfProg,
  LinkInfo,
  LinkKind,
  LinkTarget,
  SkippedFunction,
  SkipReason,
  TargetFunction,
} from '../../kernel.js';
import { RefusedTargetError } from '../../refused.js';
import { kernelRefusal } from '../deny.js';
import type { LinuxHost } from '../host.js';
import type { LinuxProg } from '../linux_prog.js';

export abstract class LinuxLink implements BpfLink {
  abstract readonly kind: LinkKind;
  readonly id: number;
  /** The kernel is not stopped. */
  readonly pauseMs = 0;
  #prog: LinuxProg;
  readonly #targets: LinkTarget[] = [];
  readonly #skipped: SkippedFunction[] = [];
  #attachMs = 0;
  #detached = false;

  constructor(id: number, prog: LinuxProg) {
    this.id = id;
    this.#prog = prog;
    prog.use();
  }

  get prog(): LinuxProg {
    return this.#prog;
  }
  get targets(): readonly LinkTarget[] {
    return this.#targets;
  }
  get attached(): number {
    return this.#targets.length;
  }
  get skipped(): readonly SkippedFunction[] {
    return this.#skipped;
  }
  get attachMs(): number {
    return this.#attachMs;
  }
  /** Runs that the kernel left out: the program was running on that CPU already. */
  abstract readonly missed: bigint;

  info(): LinkInfo {
    const { kind, id, prog, skipped, missed } = this;
    return {
      kind,
      id,
      progId: prog.id,
      attachType: prog.attachType,
      targets: this.#targets.map(({ target, cookie }) => ({
        module: target.module,
        function: target.name,
        address: target.address,
        cookie,
      })),
      skipped,
      missed,
    };
  }

  update(prog: BpfProg, options: { readonly oldProg?: BpfProg } = {}): void {
    if (options.oldProg !== undefined && options.oldProg !== this.#prog)
      throw new BpfError('EPERM', `the link runs program ${this.#prog.name}, not ${options.oldProg.name}`);
    this.#alive();
    const next = prog as LinuxProg;
    if (next.attachType !== this.#prog.attachType)
      throw new BpfError(
        'EINVAL',
        `program ${next.name} is ${next.attachType}, and the link's are ${this.#prog.attachType}`,
      );
    this.replace(next);
    next.use();
    this.#prog.release();
    this.#prog = next;
  }

  /** Attaches another program in place of the one that it has; all or nothing. */
  protected abstract replace(prog: LinuxProg): void;
  /** Lets go of everything in the kernel; called once. */
  protected abstract close(): void;

  detach(): void {
    if (this.#detached) return;
    this.#detached = true;
    this.close();
    this.#prog.release();
  }

  get detached(): boolean {
    return this.#detached;
  }

  #alive(): void {
    if (this.#detached) throw new BpfError('EINVAL', `link ${this.id} is detached; create another one`);
  }

  /** Does `work`, which returns what is attached now, and notes how long that took. */
  protected attaching(work: () => readonly LinkTarget[]): void {
    this.#alive();
    const began = performance.now();
    for (const target of work()) this.#targets.push(target);
    this.#attachMs += performance.now() - began;
  }

  /** Those of `targets` that the link does not have yet, each once. */
  protected withoutDuplicates(targets: readonly LinkTarget[], skipInvalid: boolean): LinkTarget[] {
    const seen = new Set(this.#targets.map(({ target }) => target.address));
    return targets.filter(({ target }) => {
      const isNew = !seen.has(target.address);
      if (isNew) seen.add(target.address);
      else this.leaveOut(target, kernelRefusal('duplicate'), skipInvalid);
      return isNew;
    });
  }

  /** Why a function does not fit a program: what is read must be the same on all, and the kernel leaves that to who attaches. */
  protected unfit(host: LinuxHost, prog: LinuxProg, target: TargetFunction): SkipReason | undefined {
    const { prototype } = prog.attr.target ?? {};
    if (prototype === undefined) return undefined;
    const other = host.targets.prototypeOf(target);
    const detail = disagreement(prototype, other, prog.access);
    if (detail === undefined) return undefined;
    const isMissing = other !== undefined && prog.accessedArgs.some(position => position >= other.nargs);
    return kernelRefusal(isMissing ? 'arguments' : 'prototype', detail);
  }

  /** Notes a function that is left out; throws instead where none may be. */
  protected leaveOut(target: TargetFunction, { reason, detail }: SkipReason, skipInvalid: boolean): void {
    const refused = { module: target.module, function: target.name, address: target.address, reason, detail };
    if (!skipInvalid)
      throw new RefusedTargetError(
        reason === 'duplicate' ? 'EEXIST' : 'EINVAL',
        `${target.module}:${target.name} can't be attached: ${reason}: ${detail}`,
        refused,
      );
    this.#skipped.push(refused);
  }
}
