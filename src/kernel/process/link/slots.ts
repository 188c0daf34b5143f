/**
 * The slots of a live process: where each lies, what is written in it, and when its place may be used again.
 *
 * A slot that text leads to is never changed: another set of programs on a function is another slot, with a global
 * trampoline that saves what those programs change. A thread that is still in the old one goes on undisturbed. The old
 * place is used again only for the same function, whose code in it is the same, and only after a stop that found no
 * thread in any code of ours.
 */

import type { Module } from '../../../process/image.js';
import { Assembler } from '../../../x86/assembler.js';
import type { PatchSite } from '../ftrace/patch_site.js';
import { PATCH_SIZE } from '../ftrace/patch_site.js';
import type { GracePeriod } from '../grace.js';
import { listsSize, writeLists } from '../kfunc_md/lists.js';
import { ENTRY, type RecordEntry, writeEntries, writeRecord } from '../kfunc_md/record.js';
import type { LoadedProgram } from '../program.js';
import { isQuiet } from '../quiet.js';
import type { Arena, Block } from '../region/arena.js';
import { type CodeBlock, CodeRegion } from '../region/code_region.js';
import type { Stop, Stopper } from '../stopper.js';
import type { ProcessTarget } from '../targets.js';
import { emitFullTrampoline, type ReturnPlace } from '../trampoline/full.js';
import { emitGlobalTrampoline, specKey, type TrampolineSpec } from '../trampoline/global.js';
import { slotSize, writeSlotCode } from '../trampoline/slot.js';
import { isPlain, listsOf, plainEntries } from './program_lists.js';
import { laidOutArgs, OPAQUE_ARGS } from './prototype.js';

export { OPAQUE_ARGS };

/** Room in each region for global trampolines. */
const TRAMPOLINE_ROOM = 8 << 10;
/** A region is not made for fewer bytes. */
const MIN_REGION = 64 << 10;
/** One region serves modules that lie no further apart than this. */
const CLUSTER_SPAN = 0x6000_0000n;
const LINE = 64;
/** Every caller-saved register: rax, rcx, rdx, rsi, rdi, r8 to r11. */
const ALL_CLOBBERS = 0xfc7;

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
export interface Slot {
  /** Programs run when its function returns: calls in the call table name the slot. */
  readonly claims: boolean;
  readonly block: CodeBlock;
  /** Of the record, in the process. */
  readonly address: bigint;
  readonly trampoline: bigint;
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
  readonly #tableRoot: bigint;
  readonly #regions: CodeRegion[] = [];
  /** What calls with a return need, from the first such program on. */
  returns: (ReturnPlace & { readonly nothing: bigint }) | undefined;
  readonly #trampolines = new Map<CodeRegion, Map<string, bigint>>();
  /** Places that only the same function may have again, by its address. */
  readonly #spare = new Map<bigint, { owner: Module; blocks: CodeBlock[] }>();
  readonly #grace: GracePeriod;

  constructor(stopper: Stopper, arena: Arena, tableRoot: bigint, grace: GracePeriod) {
    this.#grace = grace;
    this.#stopper = stopper;
    this.#arena = arena;
    this.#tableRoot = tableRoot;
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
    const regionOf = this.#assignRegions(wishes);
    return wishes.map(wish => this.#write(wish, regionOf));
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

  #keep({ block, target, more }: Slot): void {
    const spare = this.#spare.get(target.address);
    if (spare === undefined) this.#spare.set(target.address, { owner: target.owner, blocks: [block] });
    else spare.blocks.push(block);
    // A forked child's text may still lead to the slot.
    if (more !== undefined) this.#grace.whenAlone(() => this.#arena.free(more));
  }

  /** No thread of the stopped process is in code of ours, now or when it returns from a signal handler. */
  isQuiet(stop: Stop): boolean {
    return isQuiet(this.#stopper.process, stop, this.#regions);
  }

  /** Places of functions of modules that were unmapped may be anyone's. */
  forgetModules(present: readonly Module[]): void {
    for (const [address, { owner, blocks }] of this.#spare) {
      if (present.includes(owner)) continue;
      this.#spare.delete(address);
      for (const block of blocks) block.region.free(block);
    }
  }

  /** Chooses a region for each module, planning new ones where none has room within reach. */
  #assignRegions(wishes: readonly SlotWish[]): Map<Module, CodeRegion> {
    const needs = new Map<Module, number>();
    for (const wish of wishes) {
      const { owner, address } = wish.target;
      const size = wishSize(wish);
      if (this.#spare.get(address)?.blocks.some(block => block.size >= size)) continue;
      needs.set(owner, (needs.get(owner) ?? 0) + ((size + LINE - 1) & -LINE));
    }
    const regionOf = new Map<Module, CodeRegion>();
    const promised = new Map<CodeRegion, number>();
    const homeless: Module[] = [];
    for (const [module, bytes] of needs) {
      const region = this.#regions.find(
        r =>
          r.reaches(module.start, module.end) && r.room - (promised.get(r) ?? 0) >= bytes + TRAMPOLINE_ROOM,
      );
      if (region === undefined) homeless.push(module);
      else {
        regionOf.set(module, region);
        promised.set(region, (promised.get(region) ?? 0) + bytes);
      }
    }
    homeless.sort((a, b) => (a.start < b.start ? -1 : 1));
    for (let first = 0; first < homeless.length; ) {
      let last = first;
      let bytes = needs.get(homeless[first])!;
      const low = homeless[first].start;
      while (last + 1 < homeless.length && homeless[last + 1].end - low < CLUSTER_SPAN)
        bytes += needs.get(homeless[++last])!;
      // Half as much again: the next links on the same modules find room.
      const size = Math.max(MIN_REGION, bytes + (bytes >> 1) + TRAMPOLINE_ROOM);
      const planned = this.#regions.filter(region => !region.mapped);
      const region = CodeRegion.plan(this.#stopper.process, size, low, homeless[last].end, planned);
      this.#regions.push(region);
      for (const module of homeless.slice(first, last + 1)) regionOf.set(module, region);
      first = last + 1;
    }
    return regionOf;
  }

  #write(wish: SlotWish, regionOf: ReadonlyMap<Module, CodeRegion>): Slot {
    const { target, site, programs } = wish;
    const block = this.#takeSpare(wish) ?? regionOf.get(target.owner)!.alloc(wishSize(wish));
    const { region } = block;
    const address = region.addressOf(block);
    const trampoline = this.#trampoline(region, specOf(wish));
    const full = !isPlain(wish);
    // A thread in the trampoline of a nop sled may find this record after it came for another: plain programs are
    // always where plain trampolines look for them.
    const plain = full ? plainEntries(wish, this.returns!.nothing) : programs.map(entryOf);
    let more: Block | undefined;
    if (plain.length > 1) {
      more = this.#arena.alloc(plain.length * ENTRY.size);
      writeEntries(more.bytes, plain.slice(1));
    }
    const bytes = region.bytesOf(block);
    const lists = full ? listsAt(site) : 0;
    writeRecord(bytes, target.address, laidOutArgs(target.prototype), plain[0], more?.address ?? 0n, lists);
    writeSlotCode(bytes, address, trampoline, site, target.owner.bias);
    if (full) writeLists(bytes.subarray(lists), listsOf(programs));
    const claims = full && listsOf(programs).exits.length > 0;
    return { block, address, trampoline, more, target, claims };
  }

  #takeSpare(wish: SlotWish): CodeBlock | undefined {
    const blocks = this.#spare.get(wish.target.address)?.blocks;
    const index = blocks?.findIndex(block => block.size >= wishSize(wish)) ?? -1;
    return index < 0 ? undefined : blocks!.splice(index, 1)[0];
  }

  #trampoline(region: CodeRegion, spec: TrampolineSpec): bigint {
    let known = this.#trampolines.get(region);
    if (known === undefined) {
      known = new Map();
      this.#trampolines.set(region, known);
    }
    const key = specKey(spec);
    const there = known.get(key);
    if (there !== undefined) return there;
    const a = new Assembler();
    if (spec.full === true) emitFullTrampoline(a, spec, this.#tableRoot, this.returns!);
    else emitGlobalTrampoline(a, spec, this.#tableRoot);
    const block = region.alloc(a.length);
    const address = region.addressOf(block);
    region.bytesOf(block).set(a.finish(address));
    known.set(key, address);
    return address;
  }
}

function entryOf({ program, cookie }: SlotProgram): RecordEntry {
  return { bpfFunc: program.address, cookie };
}

/** Where a slot's lists begin. */
function listsAt(site: PatchSite): number {
  return (slotSize(site) + 7) & -8;
}

function wishSize(wish: SlotWish): number {
  return isPlain(wish) ? slotSize(wish.site) : listsAt(wish.site) + listsSize(listsOf(wish.programs));
}

function specOf(wish: SlotWish): TrampolineSpec {
  const { site, programs } = wish;
  const nopSled = site.kind === 'nop-sled';
  const record = nopSled ? { returnOffset: site.address - site.function + PATCH_SIZE } : 'slot';
  if (!isPlain(wish))
    return { nrArgs: OPAQUE_ARGS, arguments: true, clobbers: ALL_CLOBBERS, record, full: true };
  // A thread in that of a nop sled may find a record that was put in the table after it came: it serves any program.
  if (nopSled) return { nrArgs: OPAQUE_ARGS, arguments: true, clobbers: ALL_CLOBBERS, record };
  return {
    nrArgs: OPAQUE_ARGS,
    arguments: programs.some(({ program }) => program.accessedArgs.length > 0),
    clobbers: programs.reduce((mask, { program }) => mask | program.clobbers, 0),
    stack: programs.some(({ program }) => program.needs?.stack === true),
    record,
  };
}
