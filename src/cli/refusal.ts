/**
 * What the verifier's refusal of a program says, in parts: the sentence, the instruction, the source line, what the
 * registers held; and what to do about it.
 */

import { relative } from 'node:path';
import { disassembleInstruction } from '../bpf/disassemble.js';
import { kfuncName } from '../bpf/kfuncs.js';
import { layoutOf } from '../bpf/layout.js';
import { BpfError } from '../kernel/errno.js';
import type { LineInfo } from '../kernel/kernel.js';
import { VerifierError } from '../kernel/verifier_error.js';
import type { LinkedProgram } from '../libbpf/link.js';
import { adviceFor } from './refusal_advice.js';

export interface Refusal {
  /** In the kernel's words where it has some. */
  readonly sentence: string;
  readonly instruction?: { readonly slot: number; readonly text: string };
  readonly source?: SourceLine;
  /** What the registers that matter held, in the kernel's notation. */
  readonly registers?: string;
  /** Where what was never given back was acquired. */
  readonly acquired?: { readonly slot: number; readonly source?: SourceLine };
  /** What to do. */
  readonly advice?: string;
}

export interface SourceLine {
  /** As the compiler was given it. */
  readonly file: string;
  readonly line: number;
  readonly text: string;
}

/** The verifier's refusal behind an error; `undefined` where something else is wrong. */
export function verifierErrorOf(error: BpfError): VerifierError | undefined {
  for (let at: unknown = error; at instanceof Error; at = at.cause)
    if (at instanceof VerifierError) return at;
  return undefined;
}

/** The refusal without the program's name before it, which who prints it says. */
export function ownSentence(error: BpfError): string {
  return error.cause instanceof BpfError ? error.cause.message : error.message;
}

/** Takes a refusal apart. `linked`: the program that was refused, as the verifier saw it. */
export function readRefusal(error: BpfError, linked: LinkedProgram | undefined): Refusal {
  const refused = verifierErrorOf(error);
  if (refused === undefined) return { sentence: ownSentence(error) };
  const at = /^insn (\d+): (.*)$/s.exec(refused.message);
  if (at === null || linked === undefined) return withAdvice({ sentence: refused.message });
  const slot = Number(at[1]);
  let sentence = at[2] as string;
  const text = textAt(linked, slot);
  // The message names the instruction as it is written without names.
  const plain = textAt(linked, slot, true);
  if (plain !== undefined && sentence.startsWith(`${plain}: `)) sentence = sentence.slice(plain.length + 2);
  const info = lineAt(linked.lineInfo, slot);
  if (info !== undefined) {
    const tail = `; ${info.file.replace(/^.*\//, '')}:${info.line}: ${info.text.trim()}`;
    if (sentence.endsWith(tail)) sentence = sentence.slice(0, -tail.length);
  }
  const held = /^(.*?) \((R\d+=.*)\)$/s.exec(sentence);
  if (held !== null) sentence = held[1] as string;
  const missing = linked.poisoned.find(one => one.slot === slot);
  if (missing !== undefined) sentence += `: ${missing.reason}`;
  const acquiredAt = /^Unreleased reference id=\d+ alloc_insn=(\d+)/.exec(sentence)?.[1];
  const acquired = acquiredAt === undefined ? undefined : Number(acquiredAt);
  return withAdvice({
    sentence,
    ...(text === undefined ? {} : { instruction: { slot, text } }),
    ...(info === undefined ? {} : { source: sourceLine(info) }),
    ...(held === null ? {} : { registers: held[2] as string }),
    ...(acquired === undefined ? {} : { acquired: acquisition(linked, acquired) }),
  });
}

/** The running kernel's refusal, by its own log: its instructions stand elsewhere than ours where a main program was put before. */
export function readKernelRefusal(error: BpfError): Refusal {
  const refused = verifierErrorOf(error);
  if (refused === undefined) return { sentence: ownSentence(error) };
  const sentence = refused.message.replace(/^insn \d+: /, '');
  const lines = refused.log.split('\n');
  const end = lines.findIndex(line => line.includes(sentence));
  const path = end < 0 ? [] : lines.slice(0, end);
  const insn = lastMatch(path, /^\s*(\d+): \([0-9a-f]{2}\) (.*?)(?:\s+; .*)?$/);
  const source = lastMatch(path, /^; (.*) @ (\S+):(\d+)$/);
  return {
    sentence,
    ...(insn === undefined ? {} : { instruction: { slot: Number(insn[1]), text: insn[2] } }),
    ...(source === undefined
      ? {}
      : { source: { file: source[2], line: Number(source[3]), text: source[1].trim() } }),
  };
}

function lastMatch(lines: readonly string[], pattern: RegExp): RegExpExecArray | undefined {
  for (const line of lines.toReversed()) {
    const match = pattern.exec(line);
    if (match !== null) return match;
  }
  return undefined;
}

function withAdvice(refusal: Refusal): Refusal {
  const advice = adviceFor(refusal.sentence, refusal.registers ?? '');
  return advice === undefined ? refusal : { ...refusal, advice };
}

function acquisition({ lineInfo }: LinkedProgram, slot: number): NonNullable<Refusal['acquired']> {
  const info = lineAt(lineInfo, slot);
  return info === undefined ? { slot } : { slot, source: sourceLine(info) };
}

function textAt({ insns, maps, parts }: LinkedProgram, slot: number, plain = false): string | undefined {
  const insn = insns[layoutOf(insns).indexAt[slot] ?? -1];
  if (insn === undefined) return undefined;
  if (plain) return disassembleInstruction(insn, slot);
  return disassembleInstruction(insn, slot, {
    mapName: id => maps.find(map => map.id === id)?.name,
    subprogramName: at => parts.find(part => part.slot === at)?.name,
    kfuncName,
  });
}

/** The line that an instruction came from: that of the last entry up to it, in the same function. */
function lineAt(lines: readonly LineInfo[], slot: number): LineInfo | undefined {
  let best: LineInfo | undefined;
  for (const info of lines)
    if (info.slot <= slot && (best === undefined || info.slot >= best.slot)) best = info;
  return best;
}

function sourceLine({ file, line, text }: LineInfo): SourceLine {
  return { file, line, text: text.trim() };
}

/** Several lines for a person. */
export function formatRefusal(refusal: Refusal): string {
  const { sentence, instruction, source, registers, acquired, advice } = refusal;
  const lines = [sentence];
  if (source !== undefined) lines.push(`  ${sourceText(source)}`);
  if (instruction !== undefined) lines.push(`  instruction ${instruction.slot}: ${instruction.text}`);
  if (registers !== undefined) lines.push(`  with ${registers}`);
  if (acquired !== undefined) {
    const where = acquired.source === undefined ? '' : `, ${sourceText(acquired.source)}`;
    lines.push(`  acquired by instruction ${acquired.slot}${where}`);
  }
  if (advice !== undefined) lines.push(`  ${advice}`);
  return lines.map(line => `${line}\n`).join('');
}

function sourceText({ file, line, text }: SourceLine): string {
  const near = relative(process.cwd(), file);
  const at = `${near.startsWith('..') ? file : near}:${line}`;
  return text === '' ? at : `${at}: ${text}`;
}
