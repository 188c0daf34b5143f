/**
 * What a machine's verifier says of every program of an object, each meant for a function of the kernel whose prototype
 * fits: what both sides of the differential test do.
 */

import { MAP_TYPE } from '../../../src/bpf/map_type.js';
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

/** What tests' functions take, by the function of the kernel that takes as much: integers, a pointer, a structure. */
const ALIKE: readonly (readonly [RegExp, string])[] = [
  [/add2|tick|eight_2|twin/, 'bpf_fentry_test2'],
  [/negative|leaf|caller|maybe|counted|eight_1|malloc|work/, 'bpf_fentry_test1'],
  [/greet|take_pointer|parse|identity/, 'bpf_fentry_test10'],
  [/read_outer|eight_7/, 'bpf_fentry_test8'],
];

/** The kernel's functions, by name. */
type There = (name: string) => boolean;

function functionFor({ selectors, spec }: ObjectProgram, there: There, callsOthers: boolean): string {
  // All programs of an array are for functions of one prototype.
  if (callsOthers) return 'bpf_fentry_test6';
  const [named] = selectors;
  const own = named?.replace(/^(kernel|vmlinux):/, '') ?? '';
  if (there(own)) return own;
  const { attachType, sleepable } = spec.kind!;
  // The one whose result may be changed, and in which a program may sleep.
  if (attachType === 'fmod_ret' || sleepable) return 'bpf_fentry_test1';
  const [, name] = ALIKE.find(([pattern]) => selectors.some(text => pattern.test(text))) ?? [];
  return name ?? 'bpf_fentry_test6';
}

/** Linux still walks these after two minutes in an emulated machine. */
export const ENDLESS: ReadonlySet<string> = new Set(['bpf_for_each on_six']);

/** Programs of sections that neither machine has are left out. */
export function judge(kernel: Kernel, path: string, label: string, there: There): Verdict[] {
  const object = BpfObject.open(path);
  const refusals = new Map<ObjectProgram, BpfError>();
  const programs = object.programs.filter(
    ({ spec, name }) => spec.kind !== undefined && !ENDLESS.has(`${label} ${name}`),
  );
  for (const program of object.programs) program.autoload = programs.includes(program);
  const callsOthers = object.maps.some(({ spec }) => spec.type === MAP_TYPE.PROG_ARRAY);
  for (const program of programs) program.setTarget([`kernel:${functionFor(program, there, callsOthers)}`]);
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
