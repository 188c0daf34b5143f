/**
 * Compiles BPF programs with clang, each once for each CPU version: the result is kept in build/bpf under a hash of
 * compiler, flags and source.
 */

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { publish } from './compile.js';
import { ROOT } from './paths.js';
import { missingCommand, missingFile } from './skip.js';

export const BPF_PROGRAMS = join(ROOT, 'tests', 'bpf');
export const EXAMPLES = join(ROOT, 'examples');
const BUILT = join(ROOT, 'build', 'bpf');

const CLANG = 'clang-19';
export type CpuVersion = 'v2' | 'v3' | 'v4';
export const CPU_VERSIONS: readonly CpuVersion[] = ['v2', 'v3', 'v4'];

/** Why BPF programs can't be compiled here. */
export function missingBpfCompiler(): string | undefined {
  return missingCommand(CLANG) ?? missingFile('/usr/include/bpf/bpf_helpers.h');
}

/** Names (without `.bpf.c`) of the programs of tests/bpf. */
export function bpfPrograms(): string[] {
  return readdirSync(BPF_PROGRAMS)
    .filter(name => name.endsWith('.bpf.c'))
    .map(name => basename(name, '.bpf.c'));
}

/** The path of the object of a source file. Throws with the compiler's words where it does not compile. */
export function compileBpfFile(source: string, cpu: CpuVersion = 'v3'): string {
  const flags = ['-O2', '-g', '-target', 'bpf', `-mcpu=${cpu}`, '-I/usr/include/x86_64-linux-gnu'];
  const folder = dirname(source);
  const headers = readdirSync(folder).filter(name => name.endsWith('.h'));
  const key = [
    CLANG,
    ...flags,
    readFileSync(source, 'utf8'),
    ...headers.map(h => readFileSync(join(folder, h), 'utf8')),
  ];
  const hash = createHash('sha256').update(key.join('\0')).digest('hex').slice(0, 16);
  const object = join(BUILT, hash, basename(source).replace(/\.c$/, '.o'));
  if (existsSync(object)) return object;
  mkdirSync(dirname(object), { recursive: true });
  const unfinished = `${object}.${process.pid}`;
  const done = spawnSync(CLANG, [...flags, '-c', source, '-o', unfinished], { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`${CLANG} ${flags.join(' ')} ${source}: ${done.stderr}`);
  publish(unfinished, object);
  return object;
}

/** The object of a program of tests/bpf. */
export function compileBpf(name: string, cpu: CpuVersion = 'v3'): string {
  return compileBpfFile(join(BPF_PROGRAMS, `${name}.bpf.c`), cpu);
}

let target: string | undefined;

/** The program that they are attached to (tests/bpf/target.c). `-g`: with types, for those who look at them. */
export function compileBpfTarget(): string {
  if (target !== undefined) return target;
  const source = join(BPF_PROGRAMS, 'target.c');
  const hash = createHash('sha256').update(readFileSync(source)).digest('hex').slice(0, 16);
  const program = join(BUILT, hash, 'target');
  if (!existsSync(program)) {
    mkdirSync(dirname(program), { recursive: true });
    const unfinished = `${program}.${process.pid}`;
    const done = spawnSync('gcc', ['-O2', '-g', '-pthread', '-o', unfinished, source], { encoding: 'utf8' });
    if (done.status !== 0) throw new Error(`gcc: ${done.stderr}`);
    publish(unfinished, program);
  }
  target = program;
  return program;
}
