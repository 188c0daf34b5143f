/**
 * `multitrace dump`: the programs of a BPF object after relocation, and the machine code that they become, with source
 * lines beside. There is no machine code without a machine: without a command or a process, the object is loaded into
 * a process that is started for it and ends before its own code runs.
 */

import { disassembleInstruction } from '../bpf/disassemble.js';
import { kfuncName } from '../bpf/kfuncs.js';
import { layoutOf } from '../bpf/layout.js';
import { BpfError } from '../kernel/errno.js';
import type { Kernel, LineInfo } from '../kernel/kernel.js';
import { Session } from '../kernel/process/session.js';
import type { SessionTool } from '../kernel/session.js';
import { BpfObject } from '../libbpf/object.js';
import type { ObjectProgram } from '../libbpf/object_program.js';
import { listCode } from '../x86/listing.js';
import type { ProcessWhat } from './machine.js';
import { applySettings, type ObjectSettings } from './object_settings.js';
import { note, print } from './output.js';
import { StopSignals } from './stop_signals.js';

export interface DumpOptions extends ObjectSettings {
  readonly program?: string;
}

/** A process to load into: any dynamic program does. */
const SCRATCH = ['/bin/true'];

export async function dump(
  file: string,
  what: ProcessWhat | undefined,
  options: DumpOptions,
): Promise<number> {
  const object = BpfObject.open(file);
  applySettings([object], options);
  if (options.program !== undefined) {
    const wanted = object.program(options.program);
    wanted.autoload = true;
    for (const program of object.programs) if (program !== wanted) program.autoload = false;
  }
  let text: string | undefined;
  let failure: unknown;
  let session: Session | undefined;
  const tool: SessionTool = {
    opened(kernel: Kernel) {
      if (text !== undefined || failure !== undefined) return;
      try {
        // What names functions that this process does not have is verified for opaque ones.
        object.load(kernel);
        text = object.programs
          .filter(({ loaded }) => loaded)
          .map(program => describe(object, program))
          .join('\n');
      } catch (cause) {
        failure = cause;
      } finally {
        object.destroy();
      }
      session?.killCommand();
    },
    modulesChanged: () => {},
    closed: () => {},
    refused: error => note(error.message),
  };
  if (what !== undefined && 'pid' in what) {
    // It is let go at once, and not by our death.
    new StopSignals().catch();
    session = Session.attach(what.pid, tool);
    session.stop();
  } else {
    session = Session.start(what?.command ?? SCRATCH, tool, { stdout: 2 });
    if (text !== undefined || failure !== undefined) session.killCommand();
  }
  await session.end;
  if (failure !== undefined) throw failure;
  if (text === undefined)
    throw new BpfError('ESRCH', 'the process ended before the object was loaded into it');
  print(text);
  return 0;
}

/** A program: its instructions, then its machine code. */
function describe(object: BpfObject, program: ObjectProgram): string {
  const { prog } = program;
  const linked = program.linked!;
  const insns = prog.xlated ?? linked.insns;
  // Instructions that the verifier changed stand elsewhere than the loader put them.
  const lines = insns.length === linked.insns.length ? linked.lineInfo : [];
  const { slotOf, slots } = layoutOf(insns);
  const sources = sourceLines(lines);
  const parts = new Map(linked.parts.map(({ name, slot }) => [slot, name]));
  const maps = new Map(linked.maps.map(map => [map.id, map.name]));
  const syntax = {
    mapName: (id: number) => maps.get(id),
    subprogramName: (slot: number) => parts.get(slot),
    kfuncName,
  };
  const out: string[] = [
    `${object.name}: program ${program.name}, section "${program.section}", ${slots} instructions, ${prog.jitedSize} bytes of machine code\n`,
  ];
  for (const [i, insn] of insns.entries()) {
    const slot = slotOf[i];
    const part = parts.get(slot);
    if (part !== undefined) out.push(`\n${part}:\n`);
    for (const source of sources.get(slot) ?? []) out.push(`; ${source}\n`);
    const code = insn.opcode.toString(16).padStart(2, '0');
    out.push(`${String(slot).padStart(4)}: (${code}) ${disassembleInstruction(insn, slot, syntax)}\n`);
  }
  const { jited } = prog;
  if (jited === undefined) {
    out.push('\n(this machine does not show its machine code)\n');
    return out.join('');
  }
  out.push(`\n${program.name}, machine code at 0x${jited.address.toString(16)}:\n`);
  const begins = new Map<number, string[]>();
  for (const [i, insn] of insns.entries()) {
    const at = jited.offsets[i];
    if (at === undefined || at < 0) continue;
    const texts = begins.get(at) ?? [];
    for (const source of sources.get(slotOf[i]) ?? []) texts.push(`; ${source}\n`);
    texts.push(`   # ${slotOf[i]}: ${disassembleInstruction(insn, slotOf[i], syntax)}\n`);
    begins.set(at, texts);
  }
  for (const { offset, text } of listCode(jited.bytes, jited.address)) {
    out.push(...(begins.get(offset) ?? []));
    out.push(`${offset.toString(16).padStart(4)}:  ${text}\n`);
  }
  return out.join('');
}

/** The source text that begins at each slot, without repeating a line. */
function sourceLines(lines: readonly LineInfo[]): Map<number, string[]> {
  const sources = new Map<number, string[]>();
  let last = '';
  for (const { slot, file, line, text } of lines) {
    const shown =
      text.trim() === '' ? `${file}:${line}` : `${text.trim()}  (${file.replace(/^.*\//, '')}:${line})`;
    if (shown === last) continue;
    last = shown;
    const there = sources.get(slot);
    if (there === undefined) sources.set(slot, [shown]);
    else there.push(shown);
  }
  return sources;
}
