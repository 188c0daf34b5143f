/**
 * Sees libraries as a process loads them: patches the dynamic linker's `_dl_debug_state` to run the notice of
 * trampoline/notify.ts, and answers it.
 */

import { readFileSync } from 'node:fs';
import type { SymbolType } from '../../elf/file.js';
import { addressOf, futexWaitAsync, futexWake } from '../../ffi/libc.js';
import type { Module } from '../../process/image.js';
import type { TracedProcess } from '../../process/process.js';
import { Assembler } from '../../x86/assembler.js';
import { sitesOf } from './ftrace/module_sites.js';
import { isPatchSite, type PatchSite } from './ftrace/patch_site.js';
import { PreparedText, type TextEdit } from './ftrace/text_edit.js';
import type { Arena, Block } from './region/arena.js';
import type { CodeBlock, CodeRegion } from './region/code_region.js';
import type { Targets } from './targets.js';
import { emitNotice, NOTICE, NOTICE_WAIT_NS } from './trampoline/notify.js';
import { JMP, JMP_LENGTH, writeBranch, writeDisplaced } from './trampoline/slot.js';

/** What the dynamic linkers call it: glibc, and musl. */
const STATE_FUNCTIONS: ReadonlySet<string> = new Set(['_dl_debug_state', 'dl_debug_state']);
/** A static program has no linker; it has chosen its IFUNCs when it calls this, before its constructors and main. */
const STATIC_INIT: ReadonlySet<string> = new Set(['_init']);
const NOTICE_ROOM = 512;
/** How long one wait of ours lasts at most; it is woken at every notice. */
const WATCH_MS = 1000;

/** The place of a notice, found while the process runs. */
export interface NoticePlace {
  readonly site: PatchSite;
  readonly bias: bigint;
  readonly rDebug: bigint | undefined;
  /** The function's address. */
  readonly address: bigint;
  /** The range of the linker's addresses, which the code must reach. */
  readonly low: bigint;
  readonly high: bigint;
}

/**
 * Finds the functions that tell when there is something new: the linker's, in a dynamic program, or in a static one
 * that can load libraries; and for a static program with IFUNCs the start of its initialisation. None where these are
 * hidden.
 */
export function findNoticePlaces(targets: Targets): NoticePlace[] {
  const places: NoticePlace[] = [];
  for (const module of targets.modules) {
    const isStatic = module.isMain && module.elf.interpreter === undefined;
    if (module.isMain && !isStatic) continue;
    const state = placeIn(module, STATE_FUNCTIONS);
    if (state !== undefined) {
      const symbol = module.elf.symbols(OBJECTS).find(s => s.name === '_r_debug' && s.value !== 0);
      places.push({
        ...state,
        rDebug: symbol === undefined ? undefined : module.bias + BigInt(symbol.value),
      });
    }
    if (!isStatic || !sitesOf(module.elf, module.name).functions.some(f => f.ifunc)) continue;
    const init = placeIn(module, STATIC_INIT);
    if (init !== undefined) places.push(init);
  }
  return places;
}

const OBJECTS: ReadonlySet<SymbolType> = new Set(['OBJECT']);

function placeIn(module: Module, names: ReadonlySet<string>): NoticePlace | undefined {
  const sites = sitesOf(module.elf, module.name);
  const f = sites.functions.find(g => g.aliases.some(alias => names.has(alias)));
  if (f === undefined) return undefined;
  const [site] = sites.find([f]);
  if (!isPatchSite(site) || site.kind !== 'moved') return undefined;
  return {
    site,
    bias: module.bias,
    rDebug: undefined,
    address: module.bias + BigInt(f.address),
    low: module.start,
    high: module.end,
  };
}

export class LoaderNotice {
  readonly #process: TracedProcess;
  readonly #places: readonly NoticePlace[];
  readonly #words: Block;
  readonly #view: DataView;
  readonly #region: CodeRegion;
  /** The code of each place. */
  readonly #code: readonly CodeBlock[];
  #closed = false;

  /** Writes the code into `region`, which reaches the linker; nothing is patched yet. */
  constructor(process: TracedProcess, places: readonly NoticePlace[], arena: Arena, region: CodeRegion) {
    this.#process = process;
    this.#places = places;
    this.#words = arena.alloc(NOTICE.size);
    this.#view = new DataView(this.#words.bytes.buffer, this.#words.bytes.byteOffset, NOTICE.size);
    this.#view.setUint32(NOTICE.pid, process.pid, true);
    this.#view.setUint32(NOTICE.tracer, sharesPidNamespace(process.task) ? globalThis.process.pid : 0, true);
    this.#view.setBigInt64(NOTICE.timeout + 8, NOTICE_WAIT_NS, true);
    this.#region = region;
    this.#code = places.map(place => this.#write(place));
  }

  #write({ rDebug, site, bias }: NoticePlace): CodeBlock {
    const block = this.#region.alloc(NOTICE_ROOM);
    const at = this.#region.addressOf(block);
    const a = new Assembler();
    emitNotice(a, this.#words.address, rDebug);
    const notice = a.finish(at);
    const bytes = this.#region.bytesOf(block);
    bytes.set(notice);
    writeDisplaced(bytes, notice.length, at, site, bias);
    return block;
  }

  /** The changes to the text. */
  get edits(): TextEdit[] {
    return this.#places.map(({ site, bias }, i) => {
      const address = bias + BigInt(site.address);
      const replace = new Uint8Array(JMP_LENGTH);
      writeBranch(replace, 0, JMP, address, this.#region.addressOf(this.#code[i]));
      return { address, expect: site.original, replace };
    });
  }

  /** Undoes `edits`. */
  readRestore(): PreparedText {
    const undo = this.edits.map(({ address, expect, replace }) => ({
      address,
      expect: replace,
      replace: expect.subarray(0, replace.length),
    }));
    return PreparedText.read(this.#process, undo);
  }

  /**
   * Calls `loaded` at every notice, while the thread that loads libraries waits, until `close`. An error that it
   * throws ends the watching and rejects; the thread goes on.
   */
  async watch(loaded: () => void): Promise<void> {
    // A thread that nobody would answer is not held.
    if (!this.#closed) this.#view.setUint32(NOTICE.armed, 1, true);
    const asked = addressOf(this.#words.bytes) + BigInt(NOTICE.asked);
    while (!this.#closed) {
      const count = this.#view.getUint32(NOTICE.asked, true);
      if (count === this.#view.getUint32(NOTICE.answered, true)) {
        await futexWaitAsync(asked, count, WATCH_MS);
        continue;
      }
      try {
        loaded();
      } finally {
        this.#answer(count);
      }
    }
  }

  #answer(count: number): void {
    this.#view.setUint32(NOTICE.answered, count, true);
    futexWake(addressOf(this.#words.bytes) + BigInt(NOTICE.answered));
  }

  /** No thread is held any more, and `watch` ends. */
  close(): void {
    this.#closed = true;
    this.#view.setUint32(NOTICE.armed, 0, true);
    this.#answer(this.#view.getUint32(NOTICE.asked, true));
    futexWake(addressOf(this.#words.bytes) + BigInt(NOTICE.asked));
  }
}

/** Whether a pid of ours means the same process there: both see the same pid namespace. */
function sharesPidNamespace(pid: number): boolean {
  const pids = (who: number | string): number => {
    const line = /^NSpid:(.*)$/m.exec(readFileSync(`/proc/${who}/status`, 'latin1'));
    return line === null ? 1 : line[1].trim().split(/\s+/).length;
  };
  return pids(pid) === pids('self');
}
