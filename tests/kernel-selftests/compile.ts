/** Compiles the kernel's tests: programs in C by clang, arrays of instructions by gcc. Each once for each compiler. */

import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import { ROOT } from '../support/paths.js';
import { CACHE, KERNEL_TREE, SELFTESTS } from './source.js';

const CLANG = 'clang-19';
const OWN = join(ROOT, 'tests', 'kernel-selftests');
const TOOLS = join(KERNEL_TREE, 'tools');
const FLAGS = [
  '-O2',
  '-g',
  '-target',
  'bpf',
  '-mcpu=v3',
  '-D__TARGET_ARCH_x86',
  '-DENABLE_ATOMICS_TESTS',
  '-fno-strict-aliasing',
  '-w',
  // A vmlinux.h of ours, with the few types that the tests use of it.
  `-I${OWN}/include`,
  `-I${TOOLS}/include/uapi`,
  `-I${TOOLS}/lib`,
  // For bpf_helper_defs.h, which a kernel's build makes.
  '-I/usr/include/bpf',
  `-I${SELFTESTS}`,
  `-I${SELFTESTS}/progs`,
  '-idirafter',
  '/usr/include/x86_64-linux-gnu',
];

/** A file of progs/ that has verdicts in it: its object, or that it did not compile. */
export interface Compiled {
  readonly name: string;
  readonly object: string | undefined;
  /** Of the first error. */
  readonly error?: string;
}

function built(...keys: string[]): string {
  const hash = createHash('sha256').update(keys.join('\0')).digest('hex').slice(0, 16);
  const folder = join(CACHE, 'built', hash);
  mkdirSync(folder, { recursive: true });
  return folder;
}

/** Compiles every file of progs/ that says what the verifier must say. */
export async function compileAnnotated(): Promise<Compiled[]> {
  const headers = readdirSync(join(OWN, 'include')).map(name => readFileSync(join(OWN, 'include', name)));
  const folder = built(CLANG, ...FLAGS, ...headers.map(String));
  const progs = join(SELFTESTS, 'progs');
  const names = readdirSync(progs)
    .filter(
      name => name.endsWith('.c') && /\b__(success|failure)\b/.test(readFileSync(join(progs, name), 'utf8')),
    )
    .map(name => basename(name, '.c'))
    .sort();
  const results = new Map<string, Compiled>();
  const queue = [...names];
  const worker = async (): Promise<void> => {
    for (let name = queue.shift(); name !== undefined; name = queue.shift())
      results.set(name, await compileOne(join(progs, `${name}.c`), join(folder, `${name}.o`), name));
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return names.map(name => results.get(name)!);
}

async function compileOne(source: string, object: string, name: string): Promise<Compiled> {
  const failure = object.replace(/\.o$/, '.error');
  if (existsSync(object)) return { name, object };
  if (existsSync(failure)) return { name, object: undefined, error: readFileSync(failure, 'utf8') };
  const unfinished = `${object}.${process.pid}`;
  const child = spawn(CLANG, [...FLAGS, '-c', source, '-o', unfinished], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  const status = await new Promise(resolve => child.on('close', resolve));
  if (status === 0) {
    renameSync(unfinished, object);
    return { name, object };
  }
  const error = /error: (.*)/.exec(text)?.[1] ?? text;
  writeFileSync(failure, error);
  return { name, object: undefined, error };
}

/** What tests/kernel-selftests/arrays.c prints of the kernel's arrays of instructions: one JSON object a line. */
export function dumpArrays(): string {
  const harness = join(OWN, 'arrays.c');
  const folder = built('gcc', readFileSync(harness, 'utf8'));
  const dump = join(folder, 'arrays.jsonl');
  if (existsSync(dump)) return readFileSync(dump, 'utf8');
  const list = readdirSync(join(SELFTESTS, 'verifier')).filter(name => name.endsWith('.c'));
  mkdirSync(join(folder, 'verifier'), { recursive: true });
  const includes = list.map(name => `#include "${join(SELFTESTS, 'verifier', name)}"`).join('\n');
  writeFileSync(join(folder, 'verifier', 'tests.h'), `#ifdef FILL_ARRAY\n${includes}\n#endif\n`);
  const program = join(folder, 'arrays');
  const flags = [
    '-O0',
    '-w',
    '-fno-pie',
    '-no-pie',
    '-D_GNU_SOURCE',
    `-I${folder}`,
    `-I${SELFTESTS}`,
    `-I${TOOLS}/lib`,
    `-I${TOOLS}/include`,
    `-I${TOOLS}/arch/x86/include`,
    `-I${TOOLS}/include/uapi`,
    // What it would need to load programs is never called.
    '-Wl,--unresolved-symbols=ignore-all',
  ];
  const compiled = spawnSync('gcc', [...flags, '-o', program, harness], { encoding: 'utf8' });
  if (compiled.status !== 0) throw new Error(`gcc ${harness}: ${compiled.stderr}`);
  const ran = spawnSync(program, [], { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (ran.status !== 0) throw new Error(`${program}: status ${ran.status}, signal ${ran.signal}`);
  writeFileSync(dump, ran.stdout);
  return ran.stdout;
}
