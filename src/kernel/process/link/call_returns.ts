/**
 * What a live process needs before any function can be traced at its return: the call table in its private memory, the
 * return trampolines, and the program that lets its C++ unwinders see through them.
 */

import { readFileSync } from 'node:fs';
import { MAP, PROT, SYS } from '../../../ffi/libc.js';
import type { RemoteThread } from '../../../process/remote.js';
import { OPAQUE_LAYOUT } from '../../../process/symbols/call_layout.js';
import { Assembler } from '../../../x86/assembler.js';
import { BpfError } from '../../errno.js';
import type { SkipReason } from '../../kernel.js';
import { type CallTablePlace, callTableBytes } from '../kfunc_md/call_table.js';
import { type Settled, settleCalls } from '../kfunc_md/settle.js';
import type { LoadedProgram } from '../program.js';
import type { CodeRegion } from '../region/code_region.js';
import { PAGE_SIZE, planDataAddress } from '../region/region.js';
import type { Stop, Stopper } from '../stopper.js';
import type { Targets } from '../targets.js';
import type { ReturnPlace } from '../trampoline/full.js';
import { emitReturnTrampolines, emitUnwindProgram, UNWIND_CLOBBERS } from '../trampoline/return.js';
import { unwinderRefusal } from './unwinders.js';

/** Calls under way at most; pages that no call touches cost nothing. Fewer where the process may not map so much. */
const SIZES = [1 << 20, 1 << 17, 1 << 14];

export class CallReturns {
  readonly #stopper: Stopper;
  readonly place: ReturnPlace;
  /** The program in front of `FIND_FDE`. */
  readonly unwinder: LoadedProgram;
  #mapped = true;

  /** Maps the table, in a stop, and writes the trampolines into `code`. */
  constructor(stopper: Stopper, code: CodeRegion) {
    this.#stopper = stopper;
    const table = mapTable(stopper);
    const a = new Assembler();
    const first = emitReturnTrampolines(a, table);
    const at = code.addressOf(placeCode(code, a));
    const trampoline = at + BigInt(a.offsetOf(first));
    const b = new Assembler();
    emitUnwindProgram(b, table, trampoline);
    const address = code.addressOf(placeCode(code, b));
    this.place = { table, trampoline };
    this.unwinder = {
      id: 0,
      name: 'unwinder',
      attachType: 'fentry',
      accessedArgs: [0, 1],
      context: {
        layout: 'registers',
        words: OPAQUE_LAYOUT.words.length,
        results: 1,
        read: 2,
        args: OPAQUE_LAYOUT.args,
      },
      jitedSize: b.length,
      address,
      clobbers: UNWIND_CLOBBERS,
      free: () => {},
    };
  }

  /** See `settleCalls`. */
  settle(stop: Stop, recordFor: (record: bigint) => bigint | undefined, quiet: boolean): Settled {
    if (!this.#mapped) return { pending: 0, released: 0, freed: 0 };
    return settleCalls(
      this.#stopper.process,
      stop.tid,
      this.place.table,
      this.place.trampoline,
      recordFor,
      quiet,
    );
  }

  /** Takes the table out of the process, where no call needs it any more. */
  unmap(remote: RemoteThread): void {
    if (!this.#mapped) return;
    const { address, size } = callTableMapping(this.place.table);
    remote.call('munmap', SYS.munmap, address, size);
    this.#mapped = false;
  }
}

function placeCode(code: CodeRegion, a: Assembler): ReturnType<CodeRegion['alloc']> {
  const block = code.alloc(a.length);
  code.bytesOf(block).set(a.finish(code.addressOf(block)));
  return block;
}

function tableBytes(entries: number): number {
  return (callTableBytes(entries) + PAGE_SIZE - 1) & -PAGE_SIZE;
}

/** The memory of a call table. */
export function callTableMapping({ address, entries }: CallTablePlace): { address: bigint; size: number } {
  return { address, size: tableBytes(entries) };
}

function mapTable(stopper: Stopper): CallTablePlace {
  const { process } = stopper;
  for (const entries of SIZES) {
    const size = tableBytes(entries);
    const wanted = planDataAddress(process, size);
    const flags = MAP.PRIVATE | MAP.ANONYMOUS | MAP.NORESERVE | MAP.FIXED_NOREPLACE;
    try {
      const address = stopper.during(stop =>
        stop.remote(remote =>
          remote.call('mmap', SYS.mmap, wanted, size, PROT.READ | PROT.WRITE, flags, -1, 0),
        ),
      ).value;
      return { address: BigInt.asUintN(64, address), entries };
    } catch (cause) {
      if (stopper.void || entries === SIZES[SIZES.length - 1]) throw cause;
    }
  }
  throw new BpfError('ENOMEM', `process ${process.pid} has no room for a table of calls`);
}

/** Why no function of the process can be traced at its return; `undefined` where they can. */
export function whyNoReturns(targets: Targets, task: number): SkipReason | undefined {
  if (/^x86_Thread_features:.*\bshstk\b/m.test(readStatus(task)))
    return {
      reason: 'shadow-stack',
      detail:
        'the process runs with a shadow stack, which ends it at a return address that is not its caller’s',
    };
  for (const module of targets.modules) {
    const { name } = module;
    if (/^_?greenlet\b/.test(name))
      return {
        reason: 'moved-stacks',
        detail: `${name} copies pieces of stacks to and fro, with the return addresses on them`,
      };
    const refusal = unwinderRefusal(module);
    if (refusal !== undefined) return refusal;
  }
  return undefined;
}

function readStatus(task: number): string {
  try {
    return readFileSync(`/proc/${task}/status`, 'latin1');
  } catch {
    return '';
  }
}
