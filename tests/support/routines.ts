/**
 * Routines of ours in a real process, called by the process itself: what tests of faults and threads stand on. The
 * program has variables of known names in which it finds their addresses.
 */

import { FaultServer } from '../../src/kernel/process/faults/fault_server.js';
import type { FaultFixup } from '../../src/kernel/process/faults/fixup.js';
import { CodeRegion } from '../../src/kernel/process/region/code_region.js';
import { DataArena } from '../../src/kernel/process/region/data_arena.js';
import { planDataAddress, SharedRegion } from '../../src/kernel/process/region/region.js';
import { Stopper } from '../../src/kernel/process/stopper.js';
import { Threads } from '../../src/kernel/process/threads/threads.js';
import { readModules } from '../../src/process/image.js';
import { pokeWords } from '../../src/process/poke.js';
import { openProcess, type TracedProcess } from '../../src/process/process.js';
import { Assembler, type Label } from '../../src/x86/assembler.js';

const CODE_BYTES = 64 << 10;
const DATA_BYTES = 1 << 20;

/** Code as a test writes it: labels by the name of the variable that is to hold their address. */
export interface Written {
  readonly variables: ReadonlyMap<string, Label>;
  readonly fixups: readonly FaultFixup[];
}

export class Planted {
  readonly process: TracedProcess;
  readonly stopper: Stopper;
  readonly arena: DataArena;
  readonly threads: Threads;
  readonly server: FaultServer;
  readonly #code: CodeRegion;

  constructor(pid: number, process: TracedProcess = openProcess(pid)) {
    this.process = process;
    this.stopper = new Stopper(process);
    const main = readModules(pid).modules.find(m => m.isMain);
    if (main === undefined) throw new Error('no main module');
    this.#code = CodeRegion.plan(process, CODE_BYTES, main.start, main.end, []);
    const dataAddress = planDataAddress(process, DATA_BYTES);
    const tableAddress = Threads.plan(process);
    const opened = this.stopper.during(stop =>
      stop.remote(remote => {
        const data = SharedRegion.map(remote, process.task, 'data', dataAddress, DATA_BYTES);
        this.#code.map(remote, process.task);
        const arena = new DataArena(data, () => {
          throw new Error('the data region of the test is full');
        });
        return { arena, threads: Threads.map(process, remote, arena, tableAddress) };
      }),
    ).value;
    this.arena = opened.arena;
    this.threads = opened.threads;
    this.server = new FaultServer(this.stopper, this.threads, this.arena);
    this.stopper.during(stop => {
      this.threads.setAttached(stop.tid, false);
      this.threads.findThreadId(stop);
    });
  }

  /** Writes code, follows the process, and tells it where the code is. */
  plant(write: (a: Assembler) => Written, follow = true): void {
    const a = new Assembler();
    const { variables, fixups } = write(a);
    const block = this.#code.alloc(a.length);
    const at = this.#code.addressOf(block);
    this.#code.bytesOf(block).set(a.finish(at));
    this.server.faults.add(at, fixups);
    this.stopper.during(stop => {
      if (follow) this.server.start(stop);
      this.server.publish();
      const pairs = [...variables].flatMap(([name, label]) => [
        this.addressOf(name),
        at + BigInt(a.offsetOf(label)),
      ]);
      pokeWords(stop.tid, new BigUint64Array(pairs));
    });
  }

  /** The address of a variable of the program. */
  addressOf(name: string): bigint {
    const main = readModules(this.process.task).modules.find(m => m.isMain);
    const symbol = main?.elf.symbols(new Set(['OBJECT'] as const)).find(s => s.name === name);
    if (main === undefined || symbol === undefined) throw new Error(`no variable ${name}`);
    return main.bias + BigInt(symbol.value);
  }

  set(name: string, value: bigint): void {
    this.stopper.during(stop => pokeWords(stop.tid, new BigUint64Array([this.addressOf(name), value])));
  }

  get(name: string): bigint {
    return this.process.readWord(this.addressOf(name));
  }
}
