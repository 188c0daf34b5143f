/**
 * The hooks of a live process: for each traced function its slot, its record and its patched text, shared by all
 * links on it. Everything is computed while the process runs; one stop maps, checks and writes.
 */

import type { Module } from '../../../process/image.js';
import type { StoppedThread } from '../../../process/process.js';
import { R, setRegisters } from '../../../process/registers.js';
import { goesOnAt } from '../../../process/stacks.js';
import { Assembler } from '../../../x86/assembler.js';
import { BpfError } from '../../errno.js';
import type { LinkTarget, SkippedFunction, SkipReason } from '../../kernel.js';
import { checkFunctions } from '../ftrace/check.js';
import { PATCH_SIZE, type PatchSite, patchSize } from '../ftrace/patch_site.js';
import { PreparedText, type TextEdit } from '../ftrace/text_edit.js';
import {
  ENTRY,
  type RecordEntry,
  writeEntries,
  writeRecord,
  writeRecordEntries,
} from '../kfunc_md/record.js';
import { KfuncTable } from '../kfunc_md/table.js';
import type { LoadedProgram } from '../program.js';
import { isQuiet } from '../quiet.js';
import type { Arena, Block } from '../region/arena.js';
import { type CodeBlock, CodeRegion } from '../region/code_region.js';
import { stepBack } from '../step_back.js';
import type { Stop, Stopper } from '../stopper.js';
import type { ProcessTarget, Targets } from '../targets.js';
import { emitGlobalTrampoline, specKey, type TrampolineSpec } from '../trampoline/global.js';
import {
  DISPLACED,
  islandBytes,
  patchBytes,
  slotSize,
  writeSlotCall,
  writeSlotCode,
} from '../trampoline/slot.js';
import type { Attached, LinkHost, MultiLink } from './multi_link.js';

/** A function without a known prototype counts as having six integer arguments. */
export const OPAQUE_ARGS = 6;
/** Room in each region for global trampolines. */
const TRAMPOLINE_ROOM = 8 << 10;
/** A region is not made for fewer bytes. */
const MIN_REGION = 64 << 10;
/** One region serves modules that lie no further apart than this. */
const CLUSTER_SPAN = 0x6000_0000n;
/** How often a stop is tried again because a thread stands where it can't be moved from. */
const BUSY_TRIES = 20;
const BUSY_WAIT_MS = 2;

/** Reasons that only a live process gives; the others are those of `REFUSALS`. */
export const LIVE_REFUSALS = {
  'text-modified': 'its code in memory is not what the file says: a debugger or another tracer changed it',
  'in-use': 'a thread was inside the bytes to be replaced whenever multitrace looked; try again',
  'used-by-multitrace': 'multitrace uses it to see libraries as they load',
  'unknown-function': 'no module of the process has a function there',
  duplicate: 'it is in the link already',
} as const;

interface OnHook {
  readonly link: MultiLink;
  readonly program: LoadedProgram;
  readonly cookie: bigint;
}

/** One traced function. */
interface Hook {
  readonly target: ProcessTarget;
  readonly site: PatchSite;
  readonly siteAddress: bigint;
  readonly slot: CodeBlock;
  readonly slotAddress: bigint;
  trampoline: bigint;
  programs: OnHook[];
  /** The entries behind the record's first. */
  more: Block | undefined;
}

export class Hooks implements LinkHost {
  readonly #stopper: Stopper;
  readonly #targets: Targets;
  readonly #arena: Arena;
  readonly #table: KfuncTable;
  readonly #hooks = new Map<bigint, Hook>();
  readonly #regions: CodeRegion[] = [];
  readonly #trampolines = new Map<CodeRegion, Map<string, bigint>>();
  /**
   * Slots of functions that were hooked before. A function gets its own slot again, with the same code in it: a context
   * that some scheduler of the program's own keeps aside in the middle of that code finds it when it goes on.
   */
  readonly #slots = new Map<bigint, { readonly slot: CodeBlock; readonly owner: Module }>();
  /** What may still be read or run by a thread, each with what frees it. */
  #retired: (() => void)[] = [];
  /** Functions that multitrace itself patched. */
  readonly reserved = new Set<bigint>();

  constructor(stopper: Stopper, targets: Targets, arena: Arena) {
    this.#stopper = stopper;
    this.#targets = targets;
    this.#arena = arena;
    this.#table = new KfuncTable(arena, block => this.retire(() => arena.free(block)));
  }

  /** Frees something at the first stop that finds no thread in code of ours. */
  retire(free: () => void): void {
    this.#retired.push(free);
  }

  /** The code regions, for the check that nobody is in them. */
  get regions(): readonly CodeRegion[] {
    return this.#regions;
  }

  /** Functions with a hook. */
  get size(): number {
    return this.#hooks.size;
  }

  /** Adds a region that somebody else mapped. */
  addRegion(region: CodeRegion): void {
    this.#regions.push(region);
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
        indexes.map(i => ({ ...targets[i], address: targets[i].fileAddress })),
      );
      for (const [k, i] of indexes.entries()) results[i] = found[k];
    }
    return results;
  }

  attach(link: MultiLink, wanted: readonly LinkTarget[], skipInvalid: boolean): Attached {
    const program = link.prog as LoadedProgram;
    const skipped: SkippedFunction[] = [];
    const skip = ({ target }: LinkTarget, why: SkipReason): void => {
      if (!skipInvalid)
        throw new BpfError(
          why.reason === 'duplicate' ? 'EEXIST' : 'EINVAL',
          `${target.module}:${target.name} can't be attached, so the link is not made: ${why.detail}; leave it out, or skip what can't be attached`,
        );
      skipped.push({ ...why, module: target.module, function: target.name, address: target.address });
    };

    const joining: { hook: Hook; want: LinkTarget }[] = [];
    const fresh: { want: LinkTarget; target: ProcessTarget }[] = [];
    const seen = new Set<bigint>();
    for (const want of wanted) {
      const { address, unresolved } = want.target;
      const hook = this.#hooks.get(address);
      if (unresolved !== undefined) skip(want, unresolved);
      else if (seen.has(address) || hook?.programs.some(p => p.link === link)) skip(want, live('duplicate'));
      else if (hook !== undefined) joining.push({ hook, want });
      else {
        const target = this.#targets.get(address);
        if (target === undefined) skip(want, live('unknown-function'));
        else fresh.push({ want, target });
      }
      seen.add(address);
    }

    const sites = this.check(fresh.map(f => f.target));
    const places: { want: LinkTarget; target: ProcessTarget; site: PatchSite }[] = [];
    for (const [i, { want, target }] of fresh.entries()) {
      const site = sites[i];
      if ('reason' in site) skip(want, site);
      else places.push({ want, target, site });
    }
    return this.#install(link, program, places, joining, skipped, skip);
  }

  #install(
    link: MultiLink,
    program: LoadedProgram,
    places: readonly { want: LinkTarget; target: ProcessTarget; site: PatchSite }[],
    joining: readonly { hook: Hook; want: LinkTarget }[],
    skipped: SkippedFunction[],
    skip: (want: LinkTarget, why: SkipReason) => void,
  ): Attached {
    const planned: CodeRegion[] = [];
    let hooks: { hook: Hook; want: LinkTarget; edits: readonly TextEdit[] }[] = [];
    let pauseMs = 0;
    try {
      const regionOf = this.#assignRegions(places, planned);
      for (const place of places) {
        const hook = this.#layOut(link, program, place.want, place.target, place.site, regionOf);
        hooks.push({ hook, want: place.want, edits: enableEdits(hook) });
      }
      let text = PreparedText.read(
        this.#stopper.process,
        hooks.flatMap(h => h.edits),
      );
      if (text.modified.length > 0) {
        const modified = new Set(text.modified);
        const isBad = (h: { edits: readonly TextEdit[] }): boolean =>
          h.edits.some(edit => modified.has(edit));
        for (const { want } of hooks.filter(isBad)) skip(want, live('text-modified'));
        hooks = hooks.filter(h => !isBad(h));
        // Of a site with an island, one edit may be good: it must not be written without the other.
        text = PreparedText.read(
          this.#stopper.process,
          hooks.flatMap(h => h.edits),
        );
      }

      for (let tries = 0; ; tries++) {
        const inside = insidePoints(hooks.map(h => h.hook));
        const { value: busy, ms } = this.#stopper.during(stop => {
          const standing = this.#busyHooks(stop, inside);
          if (standing.size > 0) return standing;
          stop.remote(remote => {
            for (const region of planned) if (!region.mapped) region.map(remote, this.#stopper.process.task);
          });
          for (const thread of stop.threads) moveOut(thread, inside);
          text.write(this.#stopper.process, stop.tid);
          for (const { hook, want } of joining)
            this.#setPrograms(hook, [...hook.programs, { link, program, cookie: want.cookie }]);
          this.#reclaim(stop);
          return standing;
        });
        pauseMs = Math.max(pauseMs, ms);
        if (busy.size === 0) break;
        if (tries < BUSY_TRIES) {
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, BUSY_WAIT_MS);
          continue;
        }
        const bad = hooks.filter(h => busy.has(h.hook));
        hooks = hooks.filter(h => !busy.has(h.hook));
        for (const { want } of bad) skip(want, live('in-use'));
        text = PreparedText.read(
          this.#stopper.process,
          hooks.flatMap(h => h.edits),
        );
      }
    } finally {
      // Where it failed, nothing of this link was written (`PreparedText.write` undoes its own part), and what was
      // never mapped is forgotten.
      for (const region of planned) if (region.mapped) this.#regions.push(region);
      for (const [address, { slot }] of this.#slots) if (!slot.region.mapped) this.#slots.delete(address);
    }
    for (const { hook } of hooks) this.#hooks.set(hook.target.address, hook);
    this.#table.insert(hooks.map(({ hook }) => ({ func: hook.target.address, record: hook.slotAddress })));
    return {
      targets: [...hooks.map(h => h.want), ...joining.map(j => j.want)],
      skipped,
      pauseMs,
    };
  }

  /** Chooses a region for each module, planning new ones where none has room within reach. */
  #assignRegions(
    places: readonly { target: ProcessTarget; site: PatchSite }[],
    planned: CodeRegion[],
  ): Map<Module, CodeRegion> {
    const needs = new Map<Module, number>();
    for (const { target, site } of places)
      if (!this.#slots.has(target.address))
        needs.set(target.owner, (needs.get(target.owner) ?? 0) + ((slotSize(site) + 63) & -64));
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
      const region = CodeRegion.plan(this.#stopper.process, size, low, homeless[last].end, planned);
      planned.push(region);
      for (const module of homeless.slice(first, last + 1)) regionOf.set(module, region);
      first = last + 1;
    }
    return regionOf;
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
    emitGlobalTrampoline(a, spec, this.#table.root);
    const block = region.alloc(a.length);
    const address = region.addressOf(block);
    region.bytesOf(block).set(a.finish(address));
    known.set(key, address);
    return address;
  }

  #layOut(
    link: MultiLink,
    program: LoadedProgram,
    want: LinkTarget,
    target: ProcessTarget,
    site: PatchSite,
    regionOf: ReadonlyMap<Module, CodeRegion>,
  ): Hook {
    const slot = this.#slots.get(target.address)?.slot ?? regionOf.get(target.owner)!.alloc(slotSize(site));
    this.#slots.set(target.address, { slot, owner: target.owner });
    const { region } = slot;
    const slotAddress = region.addressOf(slot);
    const trampoline = this.#trampoline(region, specOf(site, [program]));
    const bytes = region.bytesOf(slot);
    writeRecord(bytes, target.address, OPAQUE_ARGS, { bpfFunc: program.address, cookie: want.cookie }, 0n);
    writeSlotCode(bytes, slotAddress, trampoline, site, target.owner.bias);
    return {
      target,
      site,
      siteAddress: target.owner.bias + BigInt(site.address),
      slot,
      slotAddress,
      trampoline,
      programs: [{ link, program, cookie: want.cookie }],
      more: undefined,
    };
  }

  /**
   * Gives a hook another list of programs, during a stop. A thread may stand between two programs of it: the first
   * entry is never another program than before while others follow, so none is left out or run twice.
   */
  #setPrograms(hook: Hook, programs: OnHook[]): void {
    hook.programs = programs;
    const entries: RecordEntry[] = programs.map(p => ({ bpfFunc: p.program.address, cookie: p.cookie }));
    const old = hook.more;
    hook.more = undefined;
    if (entries.length > 1) {
      hook.more = this.#arena.alloc(entries.length * ENTRY.size);
      writeEntries(hook.more.bytes, entries.slice(1));
    }
    const { region } = hook.slot;
    const bytes = region.bytesOf(hook.slot);
    const spec = specOf(
      hook.site,
      programs.map(p => p.program),
    );
    if (hook.site.kind !== 'nop-sled') {
      hook.trampoline = this.#trampoline(region, spec);
      writeSlotCall(bytes, hook.slotAddress, hook.trampoline);
    }
    writeRecordEntries(bytes, entries[0], hook.more?.address ?? 0n);
    if (old !== undefined) this.retire(() => this.#arena.free(old));
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

  detach(link: MultiLink): number {
    const own = [...this.#hooks.values()].filter(hook => hook.programs.some(p => p.link === link));
    if (own.length === 0 || this.#stopper.void) return 0;
    const ending = own.filter(hook => hook.programs.length === 1);
    const shared = own.filter(hook => hook.programs.length > 1);
    const text = PreparedText.read(this.#stopper.process, ending.flatMap(disableEdits));
    const islands = new Map<number, bigint>();
    for (const hook of ending) {
      const island = islandAddress(hook);
      if (island !== undefined) islands.set(Number(island), hook.siteAddress);
    }
    const { ms } = this.#stopper.during(stop => {
      stepBack(this.#stopper.process, stop, islands);
      text.write(this.#stopper.process, stop.tid);
      for (const hook of shared)
        this.#setPrograms(
          hook,
          hook.programs.filter(p => p.link !== link),
        );
      for (const hook of ending) this.#hooks.delete(hook.target.address);
      this.#table.delete(ending.map(hook => hook.target.address));
      for (const { more } of ending) if (more !== undefined) this.retire(() => this.#arena.free(more));
      this.#reclaim(stop);
    });
    return ms;
  }

  /** Drops the hooks of modules that were unmapped. */
  forgetGone(): void {
    const { modules } = this.#targets;
    for (const [address, { slot, owner }] of this.#slots) {
      if (modules.includes(owner)) continue;
      this.#slots.delete(address);
      this.retire(() => slot.region.free(slot));
    }
    const gone = [...this.#hooks.values()].filter(hook => !modules.includes(hook.target.owner));
    if (gone.length === 0) return;
    const addresses = new Set(gone.map(hook => hook.target.address));
    for (const link of new Set(gone.flatMap(hook => hook.programs.map(p => p.link))))
      link.forget(({ target }) => addresses.has(target.address));
    for (const hook of gone) {
      this.#hooks.delete(hook.target.address);
      const { more } = hook;
      if (more !== undefined) this.retire(() => this.#arena.free(more));
    }
    this.#table.delete([...addresses]);
  }

  /** Frees what was retired, if no thread is in code of ours. */
  #reclaim(stop: Stop): void {
    if (this.#retired.length === 0 || !this.quiet(stop)) return;
    const retired = this.#retired;
    this.#retired = [];
    for (const free of retired) free();
  }

  /** No thread of the stopped process is in code of ours, now or when it returns from a signal handler. */
  quiet(stop: Stop): boolean {
    return isQuiet(this.#stopper.process, stop, this.#regions);
  }
}

function live(reason: keyof typeof LIVE_REFUSALS): SkipReason {
  return { reason, detail: LIVE_REFUSALS[reason] };
}

function specOf(site: PatchSite, programs: readonly LoadedProgram[]): TrampolineSpec {
  let clobbers = 0;
  let readsArguments = false;
  for (const program of programs) {
    clobbers |= program.clobbers;
    readsArguments ||= program.accessedArgs.length > 0;
  }
  const nopSled = site.kind === 'nop-sled';
  return {
    nrArgs: OPAQUE_ARGS,
    // A call in a nop sled is not rewritten when programs join: its trampoline serves any.
    arguments: nopSled || readsArguments,
    clobbers: nopSled ? ALL_CLOBBERS : clobbers,
    record: nopSled ? { returnOffset: site.address - site.function + PATCH_SIZE } : 'slot',
  };
}

/** Every caller-saved register: rax, rcx, rdx, rsi, rdi, r8 to r11. */
const ALL_CLOBBERS = 0xfc7;

/** Where the process has the island of a hook's site. */
function islandAddress({ site, target }: Hook): bigint | undefined {
  return site.island && target.owner.bias + BigInt(site.island.address);
}

/** The patch, and the island's where there is one. */
function enableEdits(hook: Hook): TextEdit[] {
  const { site, siteAddress, slotAddress, trampoline } = hook;
  const replace = patchBytes(site, siteAddress, slotAddress, trampoline);
  const edit = { address: siteAddress, expect: site.original, replace };
  const address = islandAddress(hook);
  if (address === undefined) return [edit];
  const island = { address, expect: site.island!.original, replace: islandBytes(address, slotAddress) };
  // No jump leads to an island that is not there.
  return [
    { ...island, stage: 0 },
    { ...edit, stage: 1 },
  ];
}

function disableEdits(hook: Hook): TextEdit[] {
  return enableEdits(hook).map(({ address, expect, replace, stage = 0 }) => ({
    address,
    expect: replace,
    replace: expect.subarray(0, replace.length),
    stage: -stage,
  }));
}

/** Addresses inside replaced bytes at which an instruction begins: no thread may go on there. */
interface InsidePoints {
  readonly points: ReadonlyMap<number, { readonly hook: Hook; readonly to: bigint }>;
  readonly low: number;
  readonly high: number;
}

function insidePoints(hooks: readonly Hook[]): InsidePoints {
  const points = new Map<number, { hook: Hook; to: bigint }>();
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  const add = (hook: Hook, from: number, to: bigint): void => {
    const at = Number(hook.siteAddress) + from;
    points.set(at, { hook, to });
    if (at < low) low = at;
    if (at >= high) high = at + 1;
  };
  for (const hook of hooks) {
    const { site } = hook;
    // Nothing is lost of a nop sled: behind it.
    if (site.kind === 'nop-sled')
      for (let i = 1; i < site.length; i++) add(hook, i, hook.siteAddress + BigInt(site.length));
    else
      for (const { from, to } of site.displaced.boundaries)
        if (from > 0 && from < patchSize(site)) add(hook, from, hook.slotAddress + BigInt(DISPLACED + to));
  }
  return { points, low, high };
}

/** Moves a thread that stands inside replaced bytes to the same instruction where it is now. */
function moveOut(thread: StoppedThread, inside: InsidePoints): void {
  const point = inside.points.get(Number(thread.registers[R.rip]));
  if (point === undefined) return;
  thread.registers[R.rip] = point.to;
  setRegisters(thread.tid, thread.registers);
}
