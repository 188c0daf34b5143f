/**
 * What a multitrace that was killed left in a process: patched text that leads into its regions. The program runs on
 * with it unharmed, counting for nobody. Whoever traces that process next puts the file's bytes back first.
 */

import { SYS } from '../../ffi/libc.js';
import { type Module, readModules } from '../../process/image.js';
import { type Mapping, REGION_NAME, readMappings } from '../../process/mappings.js';
import type { TracedProcess } from '../../process/process.js';
import { BpfError } from '../errno.js';
import { removeLeftNet } from './faults/safety_net.js';
import { PreparedText, type TextEdit } from './ftrace/text_edit.js';
import { settleCalls } from './kfunc_md/settle.js';
import { callTableMapping } from './link/call_returns.js';
import { isOpenMark, MARK_BYTES, markedReturns } from './open_mark.js';
import { isQuiet } from './quiet.js';
import { stepBack } from './step_back.js';
import type { Stop, Stopper } from './stopper.js';
import type { ReturnPlace } from './trampoline/full.js';
import { CALL, JMP, JMP_LENGTH } from './trampoline/slot.js';

const JMP_SHORT = 0xeb;
const SHORT_LENGTH = 2;
const NOP = 0x90;
/** The longest nop sled that is rewritten behind its call. */
const MOST_SLED = 64;
/** How often a process is looked at for threads in the regions, and how long after the first time, ms. */
const TRIES = 8;
const WAIT_MS = 2;
const PATH = new RegExp(`^/memfd:${REGION_NAME}-(\\d+)$`);

/**
 * Restores what a dead tracer left. Throws EBUSY where the tracer lives. Changes nothing in a process that was never
 * traced, or was let go of properly.
 */
export function repairLeftovers(process: TracedProcess, stopper: Stopper): void {
  const regions = readMappings(process.task).filter(m => PATH.test(m.path));
  if (regions.length === 0) return;
  for (const region of regions) {
    const tracer = Number(PATH.exec(region.path)![1]);
    if (region.writable && isOpenMark(process.readWord(region.start)) && hasMapped(tracer, region.inode))
      throw new BpfError(
        'EBUSY',
        `process ${process.pid} is traced by another multitrace (process ${tracer}) already; end that one first`,
      );
  }
  const code = regions.filter(r => r.executable);
  const edits: TextEdit[] = [];
  const islands = new Map<number, bigint>();
  for (const module of readModules(process.task).modules)
    findLeftovers(process, module, code, edits, islands);
  const text = PreparedText.read(process, edits);
  stopper.during(stop => {
    stepBack(process, stop, islands);
    text.write(process, stop.tid);
  });
  // Threads that are in the regions leave them when they run a little; where one stays, so does the memory, unused.
  for (let tries = 0; tries < TRIES; tries++) {
    if (stopper.during(stop => removeIfQuiet(process, stop, regions)).value) return;
    process.pause(WAIT_MS << tries);
  }
}

/** Takes the regions out of the process, if no thread is in them; what is in their place on stacks is put right anyway. */
function removeIfQuiet(process: TracedProcess, stop: Stop, regions: readonly Mapping[]): boolean {
  const ranges = regions.map(r => ({ address: r.start, size: Number(r.end - r.start) }));
  const quiet = isQuiet(process, stop, ranges);
  for (const { table, trampoline } of returnPlaces(process, regions)) {
    settleCalls(process, stop.tid, table, trampoline, () => undefined, quiet);
    ranges.push(callTableMapping(table));
  }
  if (!quiet) return false;
  stop.remote(remote => {
    const ours = (address: bigint): boolean => regions.some(r => address >= r.start && address < r.end);
    // A handler that the program may still be led to by one of its own: all stays.
    if (!removeLeftNet(process, remote, stop.tid, remote.scratchString(''), ours)) return;
    for (const { address, size } of ranges) remote.call('munmap', SYS.munmap, address, size);
  });
  return true;
}

/** The call tables of dead tracers. */
function returnPlaces(process: TracedProcess, regions: readonly Mapping[]): ReturnPlace[] {
  return regions
    .filter(region => region.writable)
    .flatMap(region => {
      const bytes = process.read(region.start, MARK_BYTES);
      return markedReturns(new BigUint64Array(bytes.buffer)) ?? [];
    });
}

/** Whether process `pid` has the memfd mapped: it is the tracer, and lives. */
function hasMapped(pid: number, inode: number): boolean {
  try {
    return readMappings(pid).some(m => m.inode === inode && PATH.test(m.path));
  } catch {
    return false;
  }
}

/**
 * Adds the patches in a module's text that lead into `code` to `edits`, as edits that undo them, and the sites of
 * islands to `islands`, by the island's address.
 */
function findLeftovers(
  process: TracedProcess,
  module: Module,
  code: readonly Mapping[],
  edits: TextEdit[],
  islands: Map<number, bigint>,
): void {
  for (const { start, end } of module.text) {
    // The last page of a mapping goes on behind the file's segment.
    const file = module.elf.bytesFrom(Number(start - module.bias))?.subarray(0, Number(end - start));
    if (file === undefined) continue;
    const now = Buffer.from(process.read(start, file.length));
    if (now.equals(file)) continue;
    for (let at = 0; at < now.length; at++) {
      if (now[at] === file[at]) continue;
      const patch = patchAt(now, file, at, start, code);
      if (patch === undefined) continue;
      const { from, to, island } = patch;
      edits.push({
        address: start + BigInt(from),
        expect: now.subarray(from, to),
        replace: file.subarray(from, to),
        // The jump to an island goes before the island.
        stage: island === undefined ? 1 : 0,
      });
      if (island !== undefined) islands.set(Number(start) + island, start + BigInt(from));
      at = to - 1;
    }
  }
}

/** The patch that changed the byte at `at`; offsets in the text. The first byte of a patch may be what stood there before. */
function patchAt(
  now: Buffer,
  file: Uint8Array,
  at: number,
  base: bigint,
  code: readonly Mapping[],
): { from: number; to: number; island?: number } | undefined {
  for (let from = Math.max(0, at - JMP_LENGTH + 1); from <= at; from++) {
    if (!leadsInto(now, from, base, code)) continue;
    let to = from + JMP_LENGTH;
    while (to < from + MOST_SLED && now[to] === NOP && file[to] !== NOP) to++;
    return { from, to };
  }
  for (let from = Math.max(0, at - SHORT_LENGTH + 1); from <= at; from++) {
    const to = from + SHORT_LENGTH;
    if (to > now.length || now[from] !== JMP_SHORT) continue;
    const island = to + now.readInt8(from + 1);
    if (island >= 0 && leadsInto(now, island, base, code)) return { from, to, island };
  }
  return undefined;
}

function leadsInto(text: Buffer, at: number, base: bigint, code: readonly Mapping[]): boolean {
  if (at + JMP_LENGTH > text.length || (text[at] !== JMP && text[at] !== CALL)) return false;
  const target = base + BigInt(at + JMP_LENGTH + text.readInt32LE(at + 1));
  return code.some(m => target >= m.start && target < m.end);
}
