/**
 * The hooks of a live process: for each traced function its patch site, the programs of all links on it, and the slot
 * that its text leads to. Everything is computed while the process runs; one stop maps, checks and writes.
 */

import type { Module } from '../../../process/image.js';
import { R } from '../../../process/registers.js';
import type { RemoteThread } from '../../../process/remote.js';
import { goesOnAt } from '../../../process/stacks.js';
import type { SelectorSet } from '../../../process/symbols/selector.js';
import { disagreement } from '../../agreement.js';
import { BpfError } from '../../errno.js';
import type { BpfProg, FunctionPrototype, LinkTarget, SkippedFunction, SkipReason } from '../../kernel.js';
import { RefusedTargetError } from '../../refused.js';
import { checkFunctions } from '../ftrace/check.js';
import { exitDenied } from '../ftrace/exit_deny.js';
import { sitesOf } from '../ftrace/module_sites.js';
import { type PatchSite, patchSize } from '../ftrace/patch_site.js';
import { PreparedText, type TextEdit } from '../ftrace/text_edit.js';
import { GracePeriod } from '../grace.js';
import { KfuncTable } from '../kfunc_md/table.js';
import type { LoadedProgram } from '../program.js';
import type { Arena, Block } from '../region/arena.js';
import type { CodeRegion } from '../region/code_region.js';
import { stepBack } from '../step_back.js';
import type { Stop, Stopper } from '../stopper.js';
import type { ProcessTarget, Targets } from '../targets.js';
import type { ReturnPlace } from '../trampoline/full.js';
import { whyNoReturns } from './call_returns.js';
import { fits } from './context.js';
import { type InsidePoints, insidePoints, moveOut } from './inside.js';
import type { Attached, Link, LinkHost } from './link.js';
import { freeSession } from './program_lists.js';
import { live } from './refusals.js';
import { ReturnHooks } from './return_hooks.js';
import { islandAddress, siteAddress, siteEdits } from './site_edits.js';
import { type Slot, type SlotProgram, Slots, type SlotWish } from './slots.js';

/** How often a stop is tried again because a thread stands where it can't be moved from. */
const BUSY_TRIES = 20;
const BUSY_WAIT_MS = 2;
/** The longest of what borrowed threads run: `mov rax, 15; syscall`. */
const BORROWED_BYTES = 9n;

/** One program of one link. */
interface OnHook extends SlotProgram {
  readonly link: Link;
}

/** One traced function. */
export interface Hook {
  /** With its prototype, if any of its programs was verified against one. */
  target: ProcessTarget;
  readonly site: PatchSite;
  /** In the order of attaching; none while it is not hooked. */
  programs: readonly OnHook[];
  /** Where its text leads to; `undefined` while it is not patched. */
  slot: Slot | undefined;
}

/** A hook and what is to become of it. */
interface Change {
  readonly hook: Hook;
  readonly programs: readonly OnHook[];
  /** What it is to become for; `undefined` where a link leaves. */
  readonly want?: LinkTarget;
}

/** A change with all that it takes. */
interface PreparedChange {
  readonly change: Change;
  readonly hook: Hook;
  readonly programs: readonly OnHook[];
  readonly next: Slot | undefined;
  readonly edits: readonly TextEdit[];
}

export class Hooks implements LinkHost {
  readonly #stopper: Stopper;
  readonly #targets: Targets;
  readonly #table: KfuncTable;
  readonly #slots: Slots;
  readonly #hooks = new Map<bigint, Hook>();
  readonly #arena: Arena;
  readonly #returns: ReturnHooks;
  /** Rises with every link's change: programs that join later have higher ones. */
  #serial = 0n;
  /** Functions whose results modify-return programs may change: none unless the user says so. */
  allowModifyReturn: SelectorSet | undefined;
  /** What a function takes and returns, where its module's types say so: asked for programs that were verified against types. */
  prototypeOf: (target: ProcessTarget) => FunctionPrototype | undefined = () => undefined;
  /** Whether a program is one of the process's. */
  isLoaded: (program: BpfProg) => boolean = () => true;
  /** Told before any return address is ours. */
  onReturns: (place: ReturnPlace) => void = () => {};
  /** What waits for nobody to be in code of ours. */
  readonly grace: GracePeriod;
  /** Functions that multitrace itself patched. */
  readonly reserved = new Set<bigint>();

  constructor(stopper: Stopper, targets: Targets, arena: Arena) {
    this.#stopper = stopper;
    this.#targets = targets;
    this.#arena = arena;
    this.grace = new GracePeriod(stopper.process.task);
    this.#table = new KfuncTable(arena, block => this.grace.whenAlone(() => arena.free(block)));
    this.#slots = new Slots(stopper, arena, this.#table.root, this.grace);
    this.#returns = new ReturnHooks(stopper, targets, this);
  }

  /** All code of ours in the process. */
  get regions(): readonly CodeRegion[] {
    return this.#slots.regions;
  }

  /** Adds a region that somebody else mapped. */
  addRegion(region: CodeRegion): void {
    this.#slots.addRegion(region);
  }

  /** No thread of the stopped process is in code of ours, now, when it returns from a signal handler, or from a call. */
  isQuiet(stop: Stop): boolean {
    const quiet = this.#slots.threadsInside(stop).size === 0;
    return this.#returns.settle(stop, quiet) === 0 && quiet;
  }

  /** Functions of unwinders are hooked, so that they see through return addresses of ours. */
  get watchesUnwinders(): boolean {
    return this.#returns.watchesUnwinders;
  }

  /** Gives unwinders their bytes back: when no return address on any stack is ours, and none will be. */
  letUnwindersGo(): void {
    this.#returns.letUnwindersGo();
  }

  /** Takes what is in private memory of the process out of it, when nothing needs it any more. */
  unmapPrivate(remote: RemoteThread): void {
    this.#returns.unmap(remote);
  }

  /** Whether a modify-return program may be attached to a function. */
  mayModifyReturn({ owner, aliases }: ProcessTarget): boolean {
    return this.allowModifyReturn?.matchesFunction(owner, aliases) ?? false;
  }

  checkLoaded(program: BpfProg): void {
    if (!this.isLoaded(program))
      throw new BpfError(
        'EBADF',
        `program ${program.name} is not loaded into process ${this.#stopper.process.pid}, or was freed; load it there`,
      );
  }

  missedCounter(): Block {
    return this.#arena.alloc(8);
  }

  freeCounter(counter: Block): void {
    this.grace.whenAlone(() => this.#arena.free(counter));
  }

  /** Prepares the process for programs that run at returns: where it has what they need. */
  openReturns(): ReturnPlace {
    this.#returns.open(this.#slots.regions[0], place => {
      this.#slots.codes.returns = place;
      this.onReturns(place);
    });
    return this.#returns.place!;
  }

  /** The patch site of each target, or why it has none. */
  check(targets: readonly ProcessTarget[]): (PatchSite | SkipReason)[] {
    const results: (PatchSite | SkipReason)[] = new Array(targets.length);
    const byModule = new Map<Module, number[]>();
    for (const [i, { address, owner, unresolved }] of targets.entries()) {
      const list = byModule.get(owner);
      if (unresolved !== undefined) results[i] = unresolved;
      else if (this.reserved.has(address)) results[i] = live('used-by-multitrace');
      else if (list === undefined) byModule.set(owner, [i]);
      else list.push(i);
    }
    for (const [{ elf, name }, indexes] of byModule) {
      const found = checkFunctions(
        elf,
        name,
        indexes.map(i => {
          const { name: of, aliases, fileAddress: address, size } = targets[i];
          return { name: of, aliases, address, size };
        }),
      );
      for (const [k, i] of indexes.entries()) {
        const site = found[k];
        results[i] =
          'reason' in site || !this.#isBorrowed(targets[i], site) ? site : live('used-by-multitrace');
      }
    }
    return results;
  }

  /** Threads that make system calls for us run bytes that the patch would replace. */
  #isBorrowed(target: ProcessTarget, site: PatchSite): boolean {
    const from = siteAddress({ target, site });
    const to = from + BigInt(patchSize(site));
    return this.#stopper.borrowed.some(at => at + BORROWED_BYTES > from && at < to);
  }

  attach(link: Link, wanted: readonly LinkTarget[], skipInvalid: boolean): Attached {
    const program = link.prog as LoadedProgram;
    const noReturns = this.#openFor(program);
    const serial = ++this.#serial;
    const skipped: SkippedFunction[] = [];
    const skip = ({ target }: LinkTarget, why: SkipReason): void => {
      const left = { ...why, module: target.module, function: target.name, address: target.address };
      if (!skipInvalid)
        throw new RefusedTargetError(
          why.reason === 'duplicate' ? 'EEXIST' : 'EINVAL',
          `${target.module}:${target.name} can't be attached, so the link is not made: ${why.detail}${link.plain ? '' : "; leave it out, or skip what can't be attached"}`,
          left,
        );
      skipped.push(left);
    };
    const changes: Change[] = [];
    const change = (hook: Hook, want: LinkTarget): void => {
      const session = program.attachType === 'fsession' ? freeSession(hook.programs) : -1;
      const refused = noReturns ?? this.#refusal(program, link, hook);
      if (refused !== undefined) skip(want, refused);
      else if (session === undefined) skip(want, live('too-many-sessions'));
      else {
        const added = {
          link,
          program,
          cookie: want.cookie,
          plain: link.plain,
          serial,
          missed: link.missedAt,
        };
        const programs = [...hook.programs, session < 0 ? added : { ...added, session }];
        changes.push({ hook, programs, want });
      }
    };

    const fresh: { want: LinkTarget; target: ProcessTarget }[] = [];
    const seen = new Map<bigint, string>();
    for (const want of wanted) {
      const { address, unresolved, name } = want.target;
      const hook = this.#hooks.get(address);
      const first = seen.get(address);
      if (unresolved !== undefined) skip(want, unresolved);
      else if (first !== undefined || hook?.programs.some(p => p.link === link))
        skip(want, live('duplicate', first === undefined || first === name ? undefined : `as ${first}`));
      else if (hook !== undefined) change(hook, want);
      else {
        const target = this.#targets.get(address);
        if (target === undefined) skip(want, live('unknown-function'));
        else fresh.push({ want, target });
      }
      if (first === undefined) seen.set(address, name);
    }
    const sites = this.check(fresh.map(f => f.target));
    for (const [i, { want, target }] of fresh.entries()) {
      const site = sites[i];
      if ('reason' in site) skip(want, site);
      else change({ target, site, programs: [], slot: undefined }, want);
    }
    const { done, pauseMs } = this.#apply(changes, (bad, why) => skip(bad.want!, live(why)));
    return { targets: done.map(made => made.want!), skipped, pauseMs };
  }

  /** Brings what the program needs of the process. Why the process can't have it, if so. */
  #openFor(program: LoadedProgram): SkipReason | undefined {
    const noReturns = isAtReturn(program)
      ? whyNoReturns(this.#targets, this.#stopper.process.task)
      : undefined;
    if (noReturns === undefined && (program.attachType !== 'fentry' || program.needs?.stack === true))
      this.openReturns();
    return noReturns;
  }

  /** Why a program can't run on a function that can be hooked; `undefined` where it can. */
  #refusal(program: LoadedProgram, link: Link, hook: Hook): SkipReason | undefined {
    // Its record and what can be laid out for it go by what the function really takes.
    if (program.context.layout !== 'registers' || program.attachType === 'fmod_ret')
      hook.target = this.#withPrototype(hook.target);
    const { owner, aliases, prototype } = hook.target;
    const denied = isAtReturn(program)
      ? exitDenied(hook.site, aliases, owner.elf, name => sitesOf(owner.elf, owner.name).hasSymbol(name))
      : undefined;
    if (denied !== undefined) return denied;
    if (program.attachType === 'fmod_ret' && !this.mayModifyReturn(hook.target)) return live('not-allowed');
    const others = hook.programs.filter(p => p.link !== link).map(p => p.program);
    if (!fits(program, prototype, others)) return live('arguments');
    const differs = disagreement(program.prototype, prototype, {
      args: program.typedArgs ?? [],
      result: program.typedResult === true || program.attachType === 'fmod_ret',
    });
    return differs === undefined ? undefined : live('prototype', differs);
  }

  update(link: Link, program: LoadedProgram): number {
    if (this.#stopper.void) throw new BpfError('ESRCH', `link ${link.id}: its program is gone`);
    const noReturns = this.#openFor(program);
    const changes: Change[] = [];
    const refuse = ({ target }: Hook, { detail }: SkipReason): never => {
      throw new BpfError(
        'EINVAL',
        `program ${program.name} can't run on ${target.module}:${target.name}, so link ${link.id} is not updated: ${detail}`,
      );
    };
    for (const hook of this.#hooksOf(link)) {
      const refused = noReturns ?? this.#refusal(program, link, hook);
      if (refused !== undefined) refuse(hook, refused);
      // It keeps its place, its cookie and its serial: calls under way run it at their return.
      changes.push({ hook, programs: hook.programs.map(p => (p.link === link ? { ...p, program } : p)) });
    }
    return this.#apply(changes, ({ hook }, why) => refuse(hook, live(why))).pauseMs;
  }

  #hooksOf(link: Link): Hook[] {
    return [...this.#hooks.values()].filter(hook => hook.programs.some(p => p.link === link));
  }

  #withPrototype(target: ProcessTarget): ProcessTarget {
    const prototype = target.prototype ?? this.prototypeOf(target);
    return prototype === undefined ? target : { ...target, prototype };
  }

  detach(link: Link): number {
    if (this.#stopper.void) return 0;
    const changes = this.#hooksOf(link).map(hook => ({
      hook,
      programs: hook.programs.filter(p => p.link !== link),
    }));
    try {
      // What somebody else wrote over our patches stays: it is not ours any more.
      return this.#apply(changes, () => {}).pauseMs;
    } catch (cause) {
      // It ended meanwhile: there is nothing to restore.
      if (cause instanceof BpfError && !this.#stopper.process.alive()) return 0;
      throw cause;
    }
  }

  /**
   * Gives hooks other programs, in one stop, all or none. Changes that can't be made are told to `leaveOut`, which
   * throws where that fails the whole.
   */
  #apply(
    changes: readonly Change[],
    leaveOut: (change: Change, why: 'text-modified' | 'in-use') => void,
  ): { done: readonly Change[]; pauseMs: number } {
    if (changes.length === 0) return { done: [], pauseMs: 0 };
    const { process } = this.#stopper;
    let rest: PreparedChange[] = [];
    let committed = false;
    let pauseMs = 0;
    const without = (bad: ReadonlySet<PreparedChange>, why: 'text-modified' | 'in-use'): PreparedText => {
      for (const { change } of bad) leaveOut(change, why);
      this.#undo([...bad]);
      rest = rest.filter(change => !bad.has(change));
      return this.#readText(rest);
    };
    try {
      rest = this.#prepare(changes);
      let text = this.#readText(rest);
      if (text.modified.length > 0) {
        const modified = new Set(text.modified);
        // Of a site with an island, one edit may be good: it must not be written without the other.
        text = without(new Set(rest.filter(c => c.edits.some(edit => modified.has(edit)))), 'text-modified');
      }
      for (let tries = 0; ; tries++) {
        const inside = insidePoints(rest);
        const islands = leftIslands(rest);
        const old = rest.flatMap(({ hook }) => hook.slot ?? []);
        const sleds = rest.filter(({ hook }) => hook.site.kind === 'nop-sled');
        const { value: busy, ms } = this.#stopper.during(stop => {
          const standing = this.#busyHooks(stop, inside);
          if (standing.size > 0) return standing;
          this.#slots.mapNew(stop);
          // Before the text leads to them, and not before they are mapped: readers look at every record they pass.
          this.#enter(sleds);
          for (const thread of stop.threads) moveOut(thread, inside);
          stepBack(process, stop, islands);
          text.write(process, stop.tid);
          committed = true;
          this.#slots.retire(old);
          for (const { hook, next } of rest) this.#returns.lead(hook.target.address, next);
          this.lookForQuiet(stop);
          return standing;
        });
        pauseMs = Math.max(pauseMs, ms);
        if (busy.size === 0) {
          this.#commit(rest);
          this.grace.reclaim();
          return { done: rest.map(({ change }) => change), pauseMs };
        }
        if (tries < BUSY_TRIES) process.pause(BUSY_WAIT_MS);
        else text = without(new Set(rest.filter(change => busy.has(change.hook))), 'in-use');
      }
    } finally {
      // Where it failed nothing was changed: `PreparedText.write` undoes its own part.
      if (!committed) {
        this.#slots.forgetPlanned();
        this.#undo(rest);
      }
    }
  }

  /** Takes programs that left off the calls under way, and ends grace periods. */
  lookForQuiet(stop: Stop): void {
    if (!this.grace.waitsForQuiet) return;
    const inside = this.#slots.threadsInside(stop);
    this.#returns.settle(stop, inside.size === 0);
    this.grace.look(inside);
  }

  #prepare(changes: readonly Change[]): PreparedChange[] {
    const wishes: SlotWish[] = [];
    for (const { hook, programs } of changes)
      if (programs.length > 0) wishes.push({ target: hook.target, site: hook.site, programs });
    const slots = this.#slots.make(wishes);
    let made = 0;
    return changes.map(change => {
      const { hook, programs } = change;
      const next = programs.length > 0 ? slots[made++] : undefined;
      return { change, hook, programs, next, edits: siteEdits(hook, hook.slot, next) };
    });
  }

  /** Puts the records that the text is to lead to in the table. */
  #enter(changes: readonly PreparedChange[]): void {
    const fresh: { func: bigint; record: bigint }[] = [];
    for (const { hook, next } of changes) {
      if (next === undefined) continue;
      const func = hook.target.address;
      if (this.#table.lookup(func) === undefined) fresh.push({ func, record: next.address });
      else this.#table.replace(func, next.address);
    }
    this.#table.insert(fresh);
  }

  /** Takes back what was prepared for changes that are not made. */
  #undo(changes: readonly PreparedChange[]): void {
    this.#table.delete(changes.filter(c => c.hook.slot === undefined).map(({ hook }) => hook.target.address));
    for (const { hook, next } of changes) {
      const func = hook.target.address;
      if (hook.slot !== undefined && next !== undefined && this.#table.lookup(func) === next.address)
        this.#table.replace(func, hook.slot.address);
    }
    this.#slots.drop(changes.flatMap(({ next }) => next ?? []));
  }

  /** The text is written: what was prepared holds from now on. What no stop is needed for is done behind it. */
  #commit(changes: readonly PreparedChange[]): void {
    // Those of nop sleds are there already. Nobody looks the others up: their calls come from their slots.
    this.#enter(changes.filter(({ hook }) => hook.site.kind !== 'nop-sled'));
    this.#table.delete(
      changes.filter(({ next }) => next === undefined).map(({ hook }) => hook.target.address),
    );
    for (const { hook, programs, next } of changes) {
      hook.programs = programs;
      hook.slot = next;
      if (next === undefined) this.#hooks.delete(hook.target.address);
      else this.#hooks.set(hook.target.address, hook);
    }
  }

  #readText(changes: readonly PreparedChange[]): PreparedText {
    const edits: TextEdit[] = [];
    for (const change of changes) for (const edit of change.edits) edits.push(edit);
    return PreparedText.read(this.#stopper.process, edits);
  }

  /** The hooks in whose replaced bytes a thread will be when it returns from a signal handler. */
  #busyHooks(stop: Stop, inside: InsidePoints): Set<Hook> {
    const busy = new Set<Hook>();
    if (inside.points.size === 0) return busy;
    for (const thread of stop.threads) {
      const rip = Number(thread.registers[R.rip]);
      let found: Hook | undefined;
      const hit = (address: number): boolean => {
        // Where it is now it can be moved from.
        found = address === rip ? undefined : inside.points.get(address)?.hook;
        return found !== undefined;
      };
      if (goesOnAt(this.#stopper.process, thread, inside.low, inside.high, hit) && found !== undefined)
        busy.add(found);
    }
    return busy;
  }

  /** Drops the hooks of modules that were unmapped. */
  forgetGone(): void {
    const { modules } = this.#targets;
    const gone = [...this.#hooks.values()].filter(hook => !modules.includes(hook.target.owner));
    for (const hook of gone) {
      const { address } = hook.target;
      this.#hooks.delete(address);
      this.#returns.lead(address, undefined);
    }
    this.#table.delete(gone.map(hook => hook.target.address));
    this.#slots.retire(gone.flatMap(hook => hook.slot ?? []));
    this.#slots.forgetModules(modules);
    this.#returns.followUnwinders();
  }
}

function isAtReturn({ attachType }: LoadedProgram): boolean {
  return attachType === 'fexit' || attachType === 'fsession';
}

/** The sites of islands that are put back, by the island's address. */
function leftIslands(changes: readonly PreparedChange[]): Map<number, bigint> {
  const islands = new Map<number, bigint>();
  for (const { hook, next } of changes) {
    const island = next === undefined ? islandAddress(hook) : undefined;
    if (island !== undefined) islands.set(Number(island), siteAddress(hook));
  }
  return islands;
}
