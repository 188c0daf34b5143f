/**
 * The slots of a live process: where each lies, what is written in it, and when its place may be used again.
 *
 * A slot that text leads to is never changed: another set of programs on a function is another slot, with a global
 * trampoline that saves what those programs change. A thread that is still in the old one goes on undisturbed. The old
 * place is used again when no thread can be in it; and while forked children may be, only for the same function, with the
 * same code in it.
 */

import type { Module } from '../../../process/image.js';
import type { PatchSite } from '../ftrace/patch_site.js';
import type { GracePeriod } from '../grace.js';
import { writeLists } from '../kfunc_md/lists.js';
import { ENTRY, type RecordEntry, writeEntries, writeRecord } from '../kfunc_md/record.js';
import type { LoadedProgram } from '../program.js';
import { threadsInside } from '../quiet.js';
import type { Arena, Block } from '../region/arena.js';
import type { CodeBlock, CodeRegion } from '../region/code_region.js';
import type { Stop, Stopper } from '../stopper.js';
import type { ProcessTarget } from '../targets.js';
import {
  type PatchTarget,
  RECORD_LOAD_LENGTH,
  writeCallStub,
  writeDisplaced,
  writeJumpStub,
  writeRecordLoad,
} from '../trampoline/slot.js';
import { placeSlots } from './placement.js';
import { plainEntries } from './program_lists.js';
import { type PlannedCode, type SlotPlan, SlotPlanner, TrampolineCode } from './slot_plan.js';

const RET = 0xc3;

/** A program and the cookie that it reads at one target. */
export interface SlotProgram {
  readonly program: LoadedProgram;
  readonly cookie: bigint;
  /** It came by a plain link (`bpf_tracing_link`): one program on one function. */
  readonly plain: boolean;
  /** When it joined: programs that join later have higher ones. */
  readonly serial: bigint;
  /** Which of a call's cookie words is its own, from 0: fsession. */
  readonly session?: number;
  /** Address of its counter of missed calls. */
  readonly missed: bigint;
}

/** A slot in place, complete: record and code. */
export interface Slot extends PatchTarget {
  /** Programs run when its function returns: calls in the call table name the slot. */
  readonly claims: boolean;
  readonly block: CodeBlock;
  /** Of the record, in the process. */
  readonly address: bigint;
  /** Where the displaced instructions are. */
  readonly displaced: bigint;
  /** Slots of one function with the same code have the same. */
  readonly codeKey: string;
  /** The program-array entries behind the record's first. */
  readonly more: Block | undefined;
  readonly target: ProcessTarget;
}

/** A slot to be made. */
export interface SlotWish {
  readonly target: ProcessTarget;
  readonly site: PatchSite;
  readonly programs: readonly SlotProgram[];
}

export class Slots {
  readonly #stopper: Stopper;
  readonly #arena: Arena;
  readonly #regions: CodeRegion[] = [];
  readonly codes: TrampolineCode;
  readonly #trampolines = new Map<CodeRegion, Map<string, bigint>>();
  /** Places that only the same function may have again, for the same code, by its address. */
  readonly #spare = new Map<bigint, { owner: Module; blocks: { block: CodeBlock; codeKey: string }[] }>();
  #nothing: bigint | undefined;
  readonly #grace: GracePeriod;

  constructor(stopper: Stopper, arena: Arena, tableRoot: bigint, grace: GracePeriod) {
    this.#grace = grace;
    this.#stopper = stopper;
    this.#arena = arena;
    this.codes = new TrampolineCode(tableRoot);
  }

  /** All code of ours in the process. */
  get regions(): readonly CodeRegion[] {
    return this.#regions;
  }

  /** Adds a region that somebody else mapped. */
  addRegion(region: CodeRegion): void {
    this.#regions.push(region);
  }

  /** Makes slots in regions that are mapped, or in new ones, which `mapNew` maps during the stop. */
  make(wishes: readonly SlotWish[]): Slot[] {
    const planner = new SlotPlanner(this.codes);
    const plans = wishes.map(wish => planner.plan(wish));
    const regionOf = this.#assignRegions(wishes, plans);
    return wishes.map((wish, i) => this.#write(wish, plans[i], regionOf[i]));
  }

  /** Maps the regions that were planned since. */
  mapNew(stop: Stop): void {
    const { process } = this.#stopper;
    const planned = this.#regions.filter(region => !region.mapped);
    if (planned.length === 0) return;
    stop.remote(remote => {
      for (const region of planned) region.map(remote, process.task);
    });
  }

  /** Forgets the regions that were planned and not mapped, after a failure, with all that is in them. */
  forgetPlanned(): void {
    for (let i = this.#regions.length - 1; i >= 0; i--)
      if (!this.#regions[i].mapped) this.#trampolines.delete(this.#regions.splice(i, 1)[0]);
  }

  /** Gives back slots that no text ever led to. */
  drop(slots: readonly Slot[]): void {
    for (const slot of slots) if (slot.block.region.mapped) this.#keep(slot);
  }

  /** Gives back slots that no text leads to any more: later, when no thread is in them. */
  retire(slots: readonly Slot[]): void {
    for (const slot of slots) this.#grace.whenQuiet(() => this.#keep(slot));
  }

  #keep({ block, target, more, codeKey }: Slot): void {
    const spare = this.#spare.get(target.address);
    const kept = { block, codeKey };
    if (spare === undefined) this.#spare.set(target.address, { owner: target.owner, blocks: [kept] });
    else spare.blocks.push(kept);
    // Until then a forked child's text may still lead to the slot: only the same code for the same function may have it.
    this.#grace.whenAlone(() => {
      if (more !== undefined) this.#arena.free(more);
      const blocks = this.#spare.get(target.address)?.blocks;
      const index = blocks?.indexOf(kept) ?? -1;
      if (blocks === undefined || index < 0) return;
      blocks.splice(index, 1);
      block.region.free(block);
    });
  }

  /** The threads of the stopped process that are in code of ours, now or when they return from a signal handler. */
  threadsInside(stop: Stop): Set<number> {
    return threadsInside(this.#stopper.process, stop, this.#regions);
  }

  /** Places of functions of modules that were unmapped may be anyone's. */
  forgetModules(present: readonly Module[]): void {
    for (const [address, { owner, blocks }] of this.#spare) {
      if (present.includes(owner)) continue;
      this.#spare.delete(address);
      for (const { block } of blocks) block.region.free(block);
    }
  }

  /** Chooses a region for each slot that has no spare place, planning new ones where none has room within reach. */
  #assignRegions(wishes: readonly SlotWish[], plans: readonly SlotPlan[]): (CodeRegion | undefined)[] {
    const wanting = wishes.map(({ target }, i) => {
      const plan = plans[i];
      if (this.#spareFor(target, plan) !== undefined) return undefined;
      return { module: target.owner, size: plan.size, shared: isShared(plan) ? plan.trampoline : undefined };
    });
    return placeSlots(
      this.#stopper.process,
      this.#regions,
      wanting,
      (region, { key }) => this.#trampolines.get(region)?.has(key) === true,
    );
  }

  #write(wish: SlotWish, plan: SlotPlan, home: CodeRegion | undefined): Slot {
    const { target, site, programs } = wish;
    const { kind, lists, listsAt, entryAt, displacedAt } = plan;
    const block = this.#takeSpare(target, plan) ?? home!.alloc(plan.size);
    const { region } = block;
    const address = region.addressOf(block);
    const entries =
      lists !== undefined && site.kind === 'nop-sled'
        ? plainEntries(wish, this.#programOfNothing())
        : programs.map(entryOf);
    let more: Block | undefined;
    if (entries.length > 1) {
      more = this.#arena.alloc(entries.length * ENTRY.size);
      writeEntries(more.bytes, entries.slice(1));
    }
    const bytes = region.bytesOf(block);
    writeRecord(bytes, target.address, plan.context.nrArgs, entries[0], more?.address ?? 0n, listsAt);
    let sledCalls: bigint | undefined;
    if (kind === 'global') writeCallStub(bytes, entryAt, address, this.#trampoline(region, plan.trampoline));
    else if (kind === 'full')
      writeJumpStub(bytes, entryAt, address, this.#trampoline(region, plan.trampoline));
    else if (kind === 'sled') sledCalls = this.#trampoline(region, plan.trampoline);
    else {
      const codeAt = kind === 'own' ? entryAt + RECORD_LOAD_LENGTH : entryAt;
      if (kind === 'own') writeRecordLoad(bytes, entryAt);
      bytes.set(plan.trampoline.code.finish(address + BigInt(codeAt)), codeAt);
    }
    if (kind !== 'sled') writeDisplaced(bytes, displacedAt, address, site, target.owner.bias);
    if (lists !== undefined) writeLists(bytes.subarray(listsAt), lists);
    return {
      block,
      address,
      entry: address + BigInt(entryAt),
      sledCalls,
      displaced: address + BigInt(displacedAt),
      codeKey: plan.codeKey,
      more,
      target,
      claims: lists !== undefined && lists.exits.length > 0,
    };
  }

  /** A program that does nothing. */
  #programOfNothing(): bigint {
    if (this.#nothing === undefined) {
      const [region] = this.#regions;
      const block = region.alloc(1);
      region.bytesOf(block)[0] = RET;
      this.#nothing = region.addressOf(block);
    }
    return this.#nothing;
  }

  #spareFor(target: ProcessTarget, plan: SlotPlan): number | undefined {
    const blocks = this.#spare.get(target.address)?.blocks;
    if (blocks === undefined) return undefined;
    const index = blocks.findIndex(
      ({ block, codeKey }) => codeKey === plan.codeKey && block.size >= plan.size,
    );
    return index < 0 ? undefined : index;
  }

  #takeSpare(target: ProcessTarget, plan: SlotPlan): CodeBlock | undefined {
    const index = this.#spareFor(target, plan);
    return index === undefined
      ? undefined
      : this.#spare.get(target.address)!.blocks.splice(index, 1)[0].block;
  }

  #trampoline(region: CodeRegion, { key, code }: PlannedCode): bigint {
    let known = this.#trampolines.get(region);
    if (known === undefined) {
      known = new Map();
      this.#trampolines.set(region, known);
    }
    const there = known.get(key);
    if (there !== undefined) return there;
    const block = region.alloc(code.length);
    const address = region.addressOf(block);
    region.bytesOf(block).set(code.finish(address));
    known.set(key, address);
    return address;
  }
}

function isShared({ kind }: SlotPlan): boolean {
  return kind === 'global' || kind === 'sled' || kind === 'full';
}

function entryOf({ program, cookie }: SlotProgram): RecordEntry {
  return { bpfFunc: program.address, cookie };
}
