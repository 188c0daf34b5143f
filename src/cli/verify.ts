/**
 * `multitrace verify`: which programs of BPF objects the verifier accepts, what it took, and why it refuses the others.
 * No process is needed: prototypes come from files. With `--kernel` the running kernel's own verifier judges.
 */

import { slotsOf } from '../bpf/instruction.js';
import { BpfError } from '../kernel/errno.js';
import type { JudgingKernel } from '../kernel/judgement.js';
import type { TargetFunction } from '../kernel/kernel.js';
import { FileTargets } from '../kernel/process/file_targets.js';
import { VerifyKernel } from '../kernel/process/verify_kernel.js';
import { BpfObject } from '../libbpf/object.js';
import type { ObjectProgram } from '../libbpf/object_program.js';
import { SelectorSet } from '../process/symbols/selector.js';
import { applySettings, type ObjectSettings } from './object_settings.js';
import { EXIT_FAILURE } from './options.js';
import { note, print } from './output.js';
import { ownSentence, readKernelRefusal, readRefusal, verifierErrorOf } from './refusal.js';
import { formatVerdicts, type Verdict, verdictsJson } from './verify_report.js';

export interface VerifyOptions extends ObjectSettings {
  /** The main program that selectors without a module mean. */
  readonly file?: string;
  /** Libraries, for those that are not in the system's folders. */
  readonly module?: readonly string[];
  /** The verifier's log: a sum of 1, 2 and 4. */
  readonly log?: number;
  readonly json?: boolean;
  /** The running kernel's verifier is to judge. */
  readonly kernel?: boolean;
}

/** A verifier, and who knows the functions that programs are for. */
interface Judge {
  open(): JudgingKernel;
  /** Why no function matches; left out for the kernel, whose verifier has its own way with such programs. */
  readonly targets?: FileTargets;
}

/** Runs the command; the exit status: 0 where every program is accepted. */
export async function verify(files: readonly string[], options: VerifyOptions): Promise<number> {
  // A file that can't be read is told before anything is verified.
  const objects = files.map(file => BpfObject.open(file));
  applySettings(objects, options);
  const verdicts = await withJudge(options, judge =>
    objects.flatMap((object, i) => verifyObject(object, files[i] as string, judge, options)),
  );
  if (options.json) print(verdictsJson(verdicts, options.kernel ? 'kernel' : 'process'));
  else {
    print(formatVerdicts(verdicts));
    if (verdicts.length === 0) note(`${files.join(', ')}: there are no programs`);
  }
  return verdicts.every(({ accepted }) => accepted) ? 0 : EXIT_FAILURE;
}

async function withJudge<T>(options: VerifyOptions, work: (judge: Judge) => T): Promise<T> {
  if (options.kernel) {
    const foreign =
      options.file !== undefined ? '--file' : options.module !== undefined ? '--module' : undefined;
    if (foreign !== undefined)
      throw new BpfError('EINVAL', `${foreign} names what processes run; with --kernel leave it out`);
    const { JudgingLinuxKernel } = await import('../kernel/linux/judging_kernel.js');
    return work({ open: () => new JudgingLinuxKernel() });
  }
  const targets = new FileTargets({ program: options.file, libraries: options.module });
  try {
    return work({ open: () => new VerifyKernel(targets), targets });
  } finally {
    targets.close();
  }
}

/** Every program of an object, also those that are loaded only when they are asked for. */
function verifyObject(
  object: BpfObject,
  file: string,
  { open, targets }: Judge,
  { log }: VerifyOptions,
): Verdict[] {
  const kernel = open();
  const refusals = new Map<ObjectProgram, BpfError>();
  for (const program of object.programs) program.autoload = true;
  let whole: BpfError | undefined;
  let verdicts: Verdict[] = [];
  const judge = (program: ObjectProgram): Verdict =>
    verdictOf(program, file, kernel, targets, refusals.get(program) ?? whole, log !== undefined);
  try {
    object.load(kernel, {
      logLevel: log ?? 0,
      refused: (program, cause) => {
        if (!refusals.has(program)) refusals.set(program, cause);
      },
    });
    verdicts = object.programs.map(judge);
    object.destroy();
  } catch (cause) {
    if (!(cause instanceof BpfError)) throw cause;
    // A map that can't be: no program of the object can be loaded.
    whole = cause;
    verdicts = object.programs.map(judge);
  } finally {
    kernel.close();
  }
  return verdicts;
}

function verdictOf(
  program: ObjectProgram,
  file: string,
  kernel: JudgingKernel,
  targets: FileTargets | undefined,
  refused: BpfError | undefined,
  withLog: boolean,
): Verdict {
  const { name, section, linked } = program;
  const judgement = kernel.judgements.get(name);
  const error = refused && verifierErrorOf(refused);
  const statistics = judgement?.statistics ?? error?.statistics;
  const prototype = judgement?.prototype;
  return {
    file,
    program: name,
    section,
    accepted: refused === undefined,
    instructions: slotCount(program),
    processed: statistics?.processed ?? 0,
    peakStates: statistics?.peakStates ?? 0,
    timeMs: judgement?.timeMs ?? 0,
    accessedArgs: refused === undefined ? program.prog.accessedArgs : [],
    refusal:
      refused === undefined
        ? undefined
        : targets === undefined
          ? readKernelRefusal(refused)
          : readRefusal(refused, linked),
    error: refused && ownSentence(refused),
    // The kernel's refusals have one in any case.
    log: withLog ? judgement?.log || (error?.log ?? '') : '',
    target: prototype === undefined ? undefined : judgement?.target,
    opaque:
      targets === undefined || judgement === undefined || prototype !== undefined
        ? undefined
        : whyOpaque(program, kernel, targets),
  };
}

/** Slots of the program with all that it calls; of itself alone where it could not be linked. */
function slotCount({ linked, spec }: ObjectProgram): number {
  if (linked === undefined) return spec.fn.slots;
  return linked.insns.reduce((slots, insn) => slots + slotsOf(insn), 0);
}

/** Why a program is verified for a function of which nothing is known. */
function whyOpaque(program: ObjectProgram, kernel: JudgingKernel, targets: FileTargets): string {
  if (program.selectors.length === 0) return 'no target is named (--target names one)';
  if (program.forAnyFunction) return 'programs of a program array run for any function';
  let matched: TargetFunction[];
  try {
    matched = program.matches(kernel);
    if (matched.length === 0) return targets.whyNone(SelectorSet.parse(program.selectors));
  } catch (cause) {
    if (!(cause instanceof BpfError)) throw cause;
    return cause.message;
  }
  const [first] = matched;
  return `${first.module} has no types of ${first.name}: neither BTF nor debug information`;
}
