/**
 * What every link of a live process is: one program on some functions, and their owner. What the machine does for it
 * (slots, records, text) is behind `LinkHost`; how many functions, and which join later, is its kind's.
 */

import { BpfError } from '../../errno.js';
import type { BpfProg, LinkInfo, LinkKind, LinkTarget, SkippedFunction } from '../../kernel.js';
import type { LoadedProgram } from '../program.js';
import type { Block } from '../region/arena.js';

/** What attaching some targets came to. */
export interface Attached {
  readonly targets: readonly LinkTarget[];
  readonly skipped: readonly SkippedFunction[];
  /** How long the process stood still, ms. */
  readonly pauseMs: number;
}

/** The part of the machine that links need. */
export interface LinkHost {
  /** A counter in shared memory for a link's missed calls. */
  missedCounter(): Block;
  attach(link: Link, targets: readonly LinkTarget[], skipInvalid: boolean): Attached;
  /** Throws EBADF for a program that is not loaded into this process. */
  checkLoaded(program: BpfProg): void;
  /** Gives all its functions another program. Returns how long the process stood still, ms. */
  update(link: Link, program: LoadedProgram): number;
  /** Returns how long the process stood still, ms. */
  detach(link: Link): number;
  /** Frees the counter when no program can count in it any more. */
  freeCounter(counter: Block): void;
}

/** The functions that are there now, as links look for those that they shall have. */
export interface Appeared {
  /** The function of this name in a module of this name. */
  find(module: string, name: string): LinkTarget['target'] | undefined;
}

export abstract class Link {
  abstract readonly kind: LinkKind;
  readonly id: number;
  #prog: LoadedProgram;
  readonly #missed: Block;
  readonly #host: LinkHost;
  #targets: LinkTarget[] = [];
  #skipped: SkippedFunction[] = [];
  /** Functions whose modules are gone. */
  #gone: LinkTarget[] = [];
  #pauseMs = 0;
  #attachMs = 0;
  #detached = false;
  /** How many calls were missed, once nobody counts any more. */
  #missedAtEnd: bigint | undefined;

  constructor(host: LinkHost, id: number, prog: BpfProg) {
    this.#host = host;
    this.id = id;
    this.#prog = prog as LoadedProgram;
    this.#prog.hold?.();
    this.#missed = host.missedCounter();
  }

  get prog(): BpfProg {
    return this.#prog;
  }

  /** One program on one function: it may have a trampoline of its own. */
  get plain(): boolean {
    return this.kind === 'tracing';
  }

  /** Calls whose return could not be waited for: more were under way than there is room to note. */
  get missed(): bigint {
    const { bytes } = this.#missed;
    return this.#missedAtEnd ?? new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  }

  /** Where programs in the process count them. */
  get missedAt(): bigint {
    return this.#missed.address;
  }

  get targets(): readonly LinkTarget[] {
    return this.#targets;
  }

  get attached(): number {
    return this.#targets.length + this.#gone.length;
  }

  get skipped(): readonly SkippedFunction[] {
    return this.#skipped;
  }

  get pauseMs(): number {
    return this.#pauseMs;
  }

  get attachMs(): number {
    return this.#attachMs;
  }

  get detached(): boolean {
    return this.#detached;
  }

  info(): LinkInfo {
    return {
      kind: this.kind,
      id: this.id,
      progId: this.#prog.id,
      attachType: this.#prog.attachType,
      targets: this.#targets.map(({ target: { module, name, address }, cookie }) => ({
        module,
        function: name,
        address,
        cookie,
      })),
      skipped: [...this.#skipped],
      missed: this.missed,
    };
  }

  protected join(targets: readonly LinkTarget[], skipInvalid: boolean): void {
    this.#checkAttached();
    for (const { target, cookie } of targets)
      if (BigInt.asUintN(64, cookie) !== cookie)
        throw new BpfError(
          'EINVAL',
          `the cookie ${cookie} of ${target.module}:${target.name} is no unsigned number of 64 bits`,
        );
    const from = performance.now();
    const done = this.#host.attach(this, targets, skipInvalid);
    this.#attachMs += performance.now() - from;
    for (const target of done.targets) this.#targets.push(target);
    for (const skipped of done.skipped) this.#skipped.push(skipped);
    this.#pauseMs = done.pauseMs;
  }

  update(prog: BpfProg, { oldProg }: { readonly oldProg?: BpfProg } = {}): void {
    this.#checkAttached();
    if (oldProg !== undefined && oldProg !== this.#prog)
      throw new BpfError(
        'EPERM',
        `link ${this.id} runs program ${this.#prog.name}, not ${oldProg.name}, so it is not replaced; somebody else updated it`,
      );
    if (prog === this.#prog) return;
    if (prog.attachType !== this.#prog.attachType)
      throw new BpfError(
        'EINVAL',
        `program ${prog.name} is ${prog.attachType}, and link ${this.id} is for ${this.#prog.attachType}; create another link for it`,
      );
    this.#host.checkLoaded(prog);
    const next = prog as LoadedProgram;
    next.hold?.();
    try {
      this.#pauseMs = this.#host.update(this, next);
    } catch (cause) {
      next.release?.();
      throw cause;
    }
    const old = this.#prog;
    this.#prog = next;
    old.release?.();
  }

  detach(): void {
    if (this.#detached) return;
    this.#detached = true;
    this.#pauseMs = this.#host.detach(this);
    this.#missedAtEnd = this.missed;
    this.#host.freeCounter(this.#missed);
    this.#prog.release?.();
  }

  /** The modules of these functions were unmapped: there is nothing left to restore. */
  forget(isGone: (address: bigint) => boolean): void {
    this.#gone.push(...this.#targets.filter(({ target }) => isGone(target.address)));
    this.#targets = this.#targets.filter(({ target }) => !isGone(target.address));
  }

  /** Modules came: joins what the link shall have of them. What can't be attached is left out. */
  follow(appeared: Appeared): void {
    if (this.#detached) return;
    const wanted = this.wanted(appeared, this.#gone);
    if (wanted.length === 0) return;
    const found = new Set(wanted.map(({ target: { module, name } }) => `${module}\0${name}`));
    this.#gone = this.#gone.filter(({ target: { module, name } }) => !found.has(`${module}\0${name}`));
    this.join(wanted, true);
  }

  /** Functions that were left out for this reason may not be any more. */
  protected retry(reason: string): void {
    this.#skipped = this.#skipped.filter(skipped => skipped.reason !== reason);
  }

  /** What of the functions that are there now shall join; by default those that were in it before. */
  protected wanted(appeared: Appeared, gone: readonly LinkTarget[]): LinkTarget[] {
    return gone.flatMap(({ target: { module, name }, cookie }) => {
      const target = appeared.find(module, name);
      return target === undefined ? [] : [{ target, cookie }];
    });
  }

  #checkAttached(): void {
    if (this.#detached) throw new BpfError('EINVAL', `link ${this.id} is detached; create another one`);
  }
}
