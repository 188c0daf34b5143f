/** How `multitrace verify` prints what it found. */

import { basename } from 'node:path';
import { spellType } from '../btf/spelling.js';
import type { TargetFunction } from '../kernel/kernel.js';
import { type Json, toJson } from './json.js';
import { grouped, table } from './output.js';
import { formatRefusal, type Refusal } from './refusal.js';

/** One program. */
export interface Verdict {
  readonly file: string;
  readonly program: string;
  readonly section: string;
  readonly accepted: boolean;
  /** Slots of 8 bytes, with the functions that it calls. */
  readonly instructions: number;
  /** Instructions walked over all paths, and states kept at once; 0 where it was refused before any was walked. */
  readonly processed: number;
  readonly peakStates: number;
  readonly timeMs: number;
  readonly accessedArgs: readonly number[];
  readonly refusal: Refusal | undefined;
  /** The refusal as one sentence. */
  readonly error: string | undefined;
  readonly log: string;
  /** The function whose prototype it was verified for. */
  readonly target: TargetFunction | undefined;
  /** Why there is none, where the verifier saw the program. */
  readonly opaque: string | undefined;
}

const HEAD = ['PROGRAM', 'SECTION', '', 'INSNS', 'PROCESSED', 'STATES', 'MS', 'ARGS', 'VERIFIED FOR'];
/** Columns of numbers. */
const RIGHT = [3, 4, 5, 6];

/** A table of all programs, then what is wrong with each that was refused, then logs. */
export function formatVerdicts(verdicts: readonly Verdict[]): string {
  if (verdicts.length === 0) return '';
  const several = new Set(verdicts.map(({ file }) => file)).size > 1;
  const rows = verdicts.map(v => [
    ...(several ? [basename(v.file)] : []),
    v.program,
    v.section,
    v.accepted ? 'accepted' : 'refused',
    grouped(v.instructions),
    grouped(v.processed),
    grouped(v.peakStates),
    v.timeMs.toFixed(1),
    v.accepted ? v.accessedArgs.join(',') || '-' : '-',
    v.target === undefined ? (v.opaque === undefined ? '-' : 'six integers') : declaration(v.target),
  ]);
  const head = several ? ['FILE', ...HEAD] : HEAD;
  const out = [table([head, ...rows], several ? RIGHT.map(column => column + 1) : RIGHT)];
  for (const [why, names] of opaquePrograms(verdicts))
    out.push(`\n${names.join(', ')}: verified for six integers, as ${why}.\n`);
  for (const { program, section, refusal, log } of verdicts) {
    if (log !== '') out.push(`\nlog of ${program}:\n${log.trimEnd()}\n`);
    if (refusal !== undefined) out.push(`\n${program} (${section}) is refused: ${formatRefusal(refusal)}`);
  }
  return out.join('');
}

/** Programs that were verified for an opaque function, by the reason. */
function opaquePrograms(verdicts: readonly Verdict[]): Map<string, string[]> {
  const programs = new Map<string, string[]>();
  for (const { program, opaque } of verdicts) {
    if (opaque === undefined) continue;
    const names = programs.get(opaque);
    if (names === undefined) programs.set(opaque, [program]);
    else if (!names.includes(program)) names.push(program);
  }
  return programs;
}

/** One line with one object. */
export function verdictsJson(verdicts: readonly Verdict[], machine: 'process' | 'kernel'): string {
  const programs = verdicts.map(
    (v): Json => ({
      program: v.program,
      section: v.section,
      accepted: v.accepted,
      instructions: v.instructions,
      processed: v.processed,
      peakStates: v.peakStates,
      timeMs: Number(v.timeMs.toFixed(3)),
      accessedArgs: v.accessedArgs,
      error: v.error ?? null,
      log: v.log,
      file: v.file,
      refusal: v.refusal === undefined ? null : refusalJson(v.refusal),
      target:
        v.target === undefined
          ? null
          : { module: v.target.module, function: v.target.name, prototype: declaration(v.target) },
      opaque: v.opaque ?? null,
    }),
  );
  return `${toJson({ command: 'verify', machine, accepted: verdicts.every(v => v.accepted), programs })}\n`;
}

function refusalJson({ sentence, instruction, source, registers, acquired, advice }: Refusal): Json {
  return {
    sentence,
    instruction: instruction === undefined ? null : { ...instruction },
    source: source === undefined ? null : { ...source },
    registers: registers ?? null,
    acquired:
      acquired === undefined
        ? null
        : { slot: acquired.slot, source: acquired.source === undefined ? null : { ...acquired.source } },
    advice: advice ?? null,
  };
}

/** `int libfoo.so:open(const char *, int, ...)`: what a target takes in registers, and returns. */
function declaration({ module, name, prototype }: TargetFunction): string {
  const { btf, args = [], returns = 0, variadic } = prototype ?? {};
  if (btf === undefined) return `${module}:${name}`;
  const taken = args.map(id => spellType(btf, id, ''));
  if (variadic) taken.push('...');
  return spellType(btf, returns, `${module}:${name}(${taken.join(', ') || 'void'})`);
}
