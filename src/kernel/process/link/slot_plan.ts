/**
 * Which kind of slot a set of programs on a function takes, with which trampoline, and how large it is.
 *
 *     global   plain fentry programs of multi-links: the record, and a call of the global trampoline (global.ts)
 *     sled     the same where the compiler left nops: the record alone; the function calls the trampoline itself
 *     full     other programs of multi-links: the record, a jump to a global full trampoline (full.ts), program lists
 *     direct   a plain link is on the function, and all programs are plain fentry: a trampoline of its own (direct.ts)
 *     own      a plain link is on it, with other programs: a full trampoline of its own, program lists
 */

import { OPAQUE_LAYOUT, type WordPlace } from '../../../process/symbols/call_layout.js';
import { Assembler } from '../../../x86/assembler.js';
import { PATCH_SIZE } from '../ftrace/patch_site.js';
import { CALLER_SAVED } from '../jit/register_map.js';
import { listsSize, type ProgramLists } from '../kfunc_md/lists.js';
import { RECORD } from '../kfunc_md/record.js';
import type { LoadedProgram } from '../program.js';
import { type DirectSpec, directSpecKey, emitDirectTrampoline } from '../trampoline/direct.js';
import { emitFullTrampoline, type FullSpec, fullSpecKey, type ReturnPlace } from '../trampoline/full.js';
import { emitGlobalTrampoline, specKey, type TrampolineSpec } from '../trampoline/global.js';
import { CALL_STUB_LENGTH, displacedSize, JUMP_STUB_LENGTH, RECORD_LOAD_LENGTH } from '../trampoline/slot.js';
import { contextOf, isRegister, type TargetContext, wordsRead } from './context.js';
import { isPlain, listsOf, runsAtReturn } from './program_lists.js';
import type { SlotWish } from './slots.js';

/** Code that slots share, or that one has for itself. */
export interface PlannedCode {
  /** Slots with the same key can share the code. */
  readonly key: string;
  readonly code: Assembler;
}

export interface SlotPlan {
  readonly kind: 'global' | 'sled' | 'full' | 'direct' | 'own';
  readonly context: TargetContext;
  /** The global trampoline that it leads to; that of its own. */
  readonly trampoline: PlannedCode;
  readonly lists: ProgramLists | undefined;
  /** From the record: its lists (0: none), where a thread comes in, the displaced instructions. */
  readonly listsAt: number;
  readonly entryAt: number;
  readonly displacedAt: number;
  /** Bytes. */
  readonly size: number;
  /** Slots of one function with the same code have the same. */
  readonly codeKey: string;
}

const EIGHT = 8;
const aligned = (offset: number): number => (offset + EIGHT - 1) & -EIGHT;

/** The trampolines of one machine: each is emitted once, and placed in every region that needs it. */
export class TrampolineCode {
  readonly #tableRoot: bigint;
  readonly #codes = new Map<string, PlannedCode>();
  /** What calls with a return need, from the first such program on. */
  returns: ReturnPlace | undefined;

  constructor(tableRoot: bigint) {
    this.#tableRoot = tableRoot;
  }

  global(spec: TrampolineSpec): PlannedCode {
    return this.#once(specKey(spec), a => emitGlobalTrampoline(a, spec, this.#tableRoot));
  }

  full(spec: FullSpec): PlannedCode {
    return this.#once(fullSpecKey(spec), a => emitFullTrampoline(a, spec, this.returns));
  }

  direct(spec: DirectSpec): PlannedCode {
    return this.#once(directSpecKey(spec), a => emitDirectTrampoline(a, spec, RECORD.size));
  }

  #once(key: string, emit: (a: Assembler) => void): PlannedCode {
    let code = this.#codes.get(key);
    if (code === undefined) {
      const a = new Assembler();
      emit(a);
      code = { key, code: a };
      this.#codes.set(key, code);
    }
    return code;
  }
}

/** Plans slots one after the other: a link wants thousands that are alike. */
export class SlotPlanner {
  readonly #codes: TrampolineCode;
  readonly #known = new Map<string, SlotPlan>();
  #program: LoadedProgram | undefined;

  constructor(codes: TrampolineCode) {
    this.#codes = codes;
  }

  plan(wish: SlotWish): SlotPlan {
    const { site, programs } = wish;
    const [{ program, plain }] = programs;
    // What follows from the program, where it is the only one and minds no prototype, and from the site.
    if (programs.length > 1 || program.context.layout !== 'registers' || program.attachType !== 'fentry')
      return planSlot(wish, this.#codes);
    if (program !== this.#program) {
      this.#program = program;
      this.#known.clear();
    }
    const key = `${plain} ${site.kind} ${site.address - site.function} ${displacedSize(site)}`;
    let plan = this.#known.get(key);
    if (plan === undefined) {
      plan = planSlot(wish, this.#codes);
      this.#known.set(key, plan);
    }
    return plan;
  }
}

function planSlot(wish: SlotWish, codes: TrampolineCode): SlotPlan {
  const { site, programs, target } = wish;
  const nopSled = site.kind === 'nop-sled';
  const loaded = programs.map(({ program }) => program);
  // Programs that look for the result before there is one find 0.
  const early = loaded.filter(({ attachType }) => attachType === 'fmod_ret' || attachType === 'fsession');
  const context = contextOf(target.prototype, loaded, early);
  const stack = loaded.some(({ needs }) => needs?.stack === true);
  const depth = stack ? 'stack' : loaded.some(({ needs }) => needs?.record !== false) ? 'record' : 'entry';
  // The trampoline of a nop sled is the same for all programs, and has no more than all need.
  const plain = isPlain(wish) && !(nopSled && (stack || !areRegisters(context.words)));
  const direct = programs.some(p => p.plain);
  const size = displacedSize(site);
  if (plain && !direct) {
    const spec: TrampolineSpec = nopSled
      ? {
          words: OPAQUE_LAYOUT.words,
          // A thread in it may find a record that was put in the table after it came: it serves any program.
          clobbers: CALLER_SAVED,
          depth: 'record',
          record: { returnOffset: site.address - site.function + PATCH_SIZE },
        }
      : {
          words: context.words,
          clobbers: clobbersOf(wish),
          depth,
          single: programs.length === 1,
          record: 'slot',
        };
    const trampoline = codes.global(spec);
    const codeKey = codeKeyOf(nopSled ? 'sled' : 'global', trampoline);
    const common = { context, trampoline, lists: undefined, listsAt: 0, entryAt: RECORD.size, codeKey };
    const displacedAt = RECORD.size + CALL_STUB_LENGTH;
    if (nopSled) return { ...common, kind: 'sled', displacedAt: RECORD.size, size: RECORD.size };
    return { ...common, kind: 'global', displacedAt, size: displacedAt + size };
  }
  if (plain) {
    const spec = {
      words: context.words,
      clobbers: clobbersOf(wish),
      depth,
      programs: programs.length,
    } as const;
    const trampoline = codes.direct(spec);
    const displacedAt = RECORD.size + trampoline.code.length;
    return {
      kind: 'direct',
      context,
      trampoline,
      lists: undefined,
      listsAt: 0,
      entryAt: RECORD.size,
      displacedAt,
      size: displacedAt + size,
      codeKey: codeKeyOf('direct', trampoline),
    };
  }
  const lists = listsOf(programs, context.result);
  const atReturn = programs.filter(runsAtReturn);
  const spec = {
    words: context.words,
    claim: atReturn.length > 0,
    keep: atReturn.reduce(
      (most, { program }) =>
        Math.max(most, Math.min(wordsRead(program, context.nrArgs), context.words.length)),
      0,
    ),
    sessions: atReturn.some(({ program }) => program.attachType === 'fsession'),
  };
  if (!direct) {
    const displacedAt = RECORD.size + JUMP_STUB_LENGTH;
    const listsAt = aligned(displacedAt + size);
    const trampoline = codes.full({
      ...spec,
      entries: few(lists.entries.length),
      modReturns: few(lists.modReturns.length),
      displaced: displacedAt,
    });
    return {
      kind: 'full',
      context,
      trampoline,
      codeKey: codeKeyOf('full', trampoline),
      lists,
      listsAt,
      entryAt: RECORD.size,
      displacedAt,
      size: listsAt + listsSize(lists),
    };
  }
  const listsAt = RECORD.size;
  const displacedAt = listsAt + listsSize(lists);
  const entryAt = displacedAt + size;
  const trampoline = codes.full({
    ...spec,
    displaced: displacedAt,
    entries: lists.entries.length,
    modReturns: lists.modReturns.length,
    lists: listsAt,
  });
  return {
    kind: 'own',
    context,
    trampoline,
    lists,
    listsAt,
    entryAt,
    displacedAt,
    size: entryAt + RECORD_LOAD_LENGTH + trampoline.code.length,
    codeKey: codeKeyOf('own', trampoline),
  };
}

/** Global trampolines are made for one program of a kind, or for any number: there shall be few of them. */
function few(count: number): number | 'many' {
  return count <= 1 ? count : 'many';
}

/** Lists are data: how many programs there are makes no other code, but where they stand in front of it. */
function codeKeyOf(kind: SlotPlan['kind'], { key }: PlannedCode): string {
  return `${kind} ${key}`;
}

/** The program of a nop sled's trampoline finds them where it looks. */
function areRegisters(words: readonly WordPlace[]): boolean {
  return words.every(isRegister);
}

function clobbersOf({ programs }: SlotWish): number {
  return programs.reduce((mask, { program }) => mask | program.clobbers, 0);
}
