/**
 * What a machine's verifier says of every program of an object, each meant for a function of the kernel whose prototype
 * fits: what both sides of the differential test do.
 */

import { BpfError } from '../../../src/kernel/errno.js';
import type { Kernel } from '../../../src/kernel/kernel.js';
import { BpfObject } from '../../../src/libbpf/object.js';
import type { ObjectProgram } from '../../../src/libbpf/object_program.js';

export interface Verdict {
  /** `OBJECT PROGRAM` */
  readonly program: string;
  readonly accepted: boolean;
  /** Why it is refused. */
  readonly why: string;
}

/** Functions of the kernel that programs are judged for. */
export const JUDGED_FOR = [
  'bpf_fentry_test1',
  'bpf_fentry_test2',
  'bpf_fentry_test6',
  'bpf_fentry_test8',
  'bpf_fentry_test10',
  'bpf_modify_return_test',
] as const;

/** What tests' functions take, by the function of the kernel that takes as much: integers, a pointer, a structure. */
const ALIKE: readonly (readonly [RegExp, (typeof JUDGED_FOR)[number]])[] = [
  [/add2|tick|eight_2|twin/, 'bpf_fentry_test2'],
  [/negative|leaf|caller|maybe|counted|eight_1|malloc|work/, 'bpf_fentry_test1'],
  [/greet|take_pointer|parse|identity/, 'bpf_fentry_test10'],
  [/read_outer|eight_7/, 'bpf_fentry_test8'],
];

function functionFor({ selectors, spec }: ObjectProgram): string {
  const { attachType, sleepable } = spec.kind!;
  if (attachType === 'fmod_ret' || sleepable) return 'bpf_modify_return_test';
  const [, name] = ALIKE.find(([pattern]) => selectors.some(text => pattern.test(text))) ?? [];
  return name ?? 'bpf_fentry_test6';
}

/** Programs of sections that neither machine has are left out. */
export function judge(kernel: Kernel, path: string, label: string): Verdict[] {
  const object = BpfObject.open(path);
  const refusals = new Map<ObjectProgram, BpfError>();
  const programs = object.programs.filter(({ spec }) => spec.kind !== undefined);
  for (const program of object.programs) program.autoload = program.spec.kind !== undefined;
  for (const program of programs) program.setTarget([`kernel:${functionFor(program)}`]);
  let whole: BpfError | undefined;
  try {
    object.load(kernel, {
      refused: (program, cause) => {
        if (!refusals.has(program)) refusals.set(program, cause);
      },
    });
    object.destroy();
  } catch (cause) {
    if (!(cause instanceof BpfError)) throw cause;
    // A map that can't be: no program of the object can be loaded.
    whole = cause;
  }
  return programs.map(program => {
    const refusal = refusals.get(program) ?? whole;
    return {
      program: `${label} ${program.name}`,
      accepted: refusal === undefined,
      why: refusal?.message ?? '',
    };
  });
}
