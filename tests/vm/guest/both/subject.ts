/**
 * What the cases that both machines pass see of a machine: itself, compiled objects, and the functions that are called on
 * order, of the same names and prototypes in the kernel and in tests/targets/test_run.c.
 */

import type { Kernel } from '../../../../src/kernel/kernel.js';
import type { BpfObject } from '../../../../src/libbpf/object.js';

export interface Subject {
  readonly machine: 'process' | 'kernel';
  readonly kernel: Kernel;
  /** `run` calls the functions for modify-return programs, too. */
  readonly modifiesReturn: boolean;
  /** Opens tests/bpf/both/NAME.bpf.c, compiled. Programs for functions that there are not are not loaded. */
  open(name: string): BpfObject;
  /** Calls each of the test functions once; what a test run of a modify-return program gives. */
  run(): Promise<number>;
  /** getpgid(pid), which calls do_getpgid: its result. */
  pgid(pid: number): Promise<number>;
  /** fallocate(file, 0, offset, 1), which calls vfs_fallocate: its result. */
  allocate(offset: number): Promise<number>;
  /** Opens "/no/such/file" for reading and writing, which calls do_sys_openat2. */
  openNothing(): Promise<number>;
}

/** One thing that must be so on every machine. */
export interface Case {
  /** What must hold. */
  readonly name: string;
  /** Why this machine can't show it; `undefined` where it can. */
  readonly unable?: (subject: Subject) => string | undefined;
  /** What was seen, as JSON has it (64-bit numbers are decimal text). */
  see(subject: Subject): Promise<unknown>;
  /** What must have been seen, the same for every machine that has the functions. */
  expected(there: (name: string) => boolean): unknown;
}

/** What became of one case on one machine. */
export type Outcome =
  | { readonly name: string; readonly seen: unknown; readonly ms: number }
  | { readonly name: string; readonly unable: string }
  | { readonly name: string; readonly failed: string };

/** A function, what it is called with, and what it gives: as far as it is a number. */
export interface TestFunction {
  readonly name: string;
  /** Words of arguments. */
  readonly args: readonly number[];
  readonly result: number;
  readonly cookie: bigint;
}

const ARGUMENTS: readonly (readonly number[])[] = [
  [1],
  [2, 3],
  [4, 5, 6],
  [7, 8, 9, 10],
  [11, 12, 13, 14, 15],
  [16, 17, 18, 19, 20, 21],
  [0],
];
const RESULTS = [2, 5, 15, 34, 65, 111, 0, 0, 0, 0];

/** bpf_fentry_test1 to 10; those that the machine has. Of test8 and 9, arguments are addresses. */
export function testFunctions(there: (name: string) => boolean): TestFunction[] {
  return RESULTS.map((result, i) => ({
    name: `bpf_fentry_test${i + 1}`,
    args: ARGUMENTS[i] ?? (i === 9 ? [0] : []),
    result,
    // Distinct, of more than 32 bits, in another order than the functions.
    cookie: (BigInt((i * 7) % 10) << 40n) + BigInt(i + 100),
  })).filter(({ name }) => there(name));
}

export function has({ kernel }: Subject): (name: string) => boolean {
  return name => kernel.functionsNamed([name])[0].length > 0;
}

/** What happens to 64-bit numbers, maps and bytes on their way to JSON; equal on both machines. */
export function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return `${value}`;
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Map) return plain(Object.fromEntries(value));
  if (value !== null && typeof value === 'object')
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, plain(one)]));
  return value;
}

/** Runs the cases, one after the other; an error is an outcome, too. */
export async function runCases(
  cases: readonly Case[],
  subject: Subject,
  tell: (outcome: Outcome) => void,
): Promise<void> {
  for (const { name, unable, see } of cases) {
    const why = unable?.(subject);
    if (why !== undefined) {
      tell({ name, unable: why });
      continue;
    }
    const began = performance.now();
    try {
      tell({ name, seen: plain(await see(subject)), ms: Math.round(performance.now() - began) });
    } catch (cause) {
      const error = cause as Error & { readonly code?: string; readonly cause?: { readonly log?: string } };
      tell({ name, failed: `${error.code ?? ''} ${error.stack}\n${error.cause?.log?.slice(-1500) ?? ''}` });
    }
  }
}

/** The errno and whether something was thrown: sentences are each machine's own. */
export function thrown(work: () => unknown): string {
  try {
    work();
  } catch (cause) {
    return (cause as { readonly code?: string }).code ?? `${cause}`;
  }
  return 'nothing';
}

/** Leaves the programs of an object alone whose function the machine does not have. */
export function openFor(object: BpfObject, kernel: Kernel): BpfObject {
  for (const program of object.programs) {
    if (program.selectors.length === 0) continue;
    const there = kernel.functionsNamed(program.selectors).every(found => found.length > 0);
    program.autoload &&= there;
  }
  return object;
}
