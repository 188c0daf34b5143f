/**
 * Functions of the kernel that no tracing program is attached to, and why: by name, and by what they take and return. A
 * native multi-link is all or nothing, and the kernel does not say which function it refused: what it would refuse must be
 * known before.
 */

import type { Btf } from '../../btf/btf.js';
import { ARGUMENT_REGISTERS, MOST_ARGUMENT_WORDS } from '../../process/symbols/call_layout.js';
import type { AttachType, FunctionPrototype, SkipReason } from '../kernel.js';

/** Words for why a function of the kernel is not attached, with the sentence of each. */
export const KERNEL_REFUSALS = {
  'unknown-function': 'no module of the kernel has a function there',
  'not-traceable':
    'the kernel’s ftrace can’t trace it (it is notrace, runs at boot alone, or has no call at its entry)',
  'changed-arguments':
    'the compiler changed what it takes (.isra, .constprop, .part): its types are not known',
  'duplicate-name':
    'its module has several functions of that name, and the kernel attaches by name: it would take the first',
  'no-types': 'the kernel’s types (BTF) do not have it, or have several of that name that differ',
  variadic: 'it takes a variable number of arguments',
  'struct-result': 'it returns a structure by value',
  'large-argument': 'it takes a value of more than 16 bytes, which is in memory',
  'too-many-arguments': 'it takes more words of arguments than a program can be given',
  denied: 'tracing it would break what tracing itself stands on; the sentence says what',
  'no-return': 'it never returns, and the program is for its return',
  duplicate: 'it is in the link already',
  arguments: 'the program reads arguments that it does not have',
  prototype: 'its types are not those that the program was verified for',
  'not-modifiable':
    'its result may not be changed: the kernel allows that for security_*, system calls (__x64_sys_*) and what is marked for error injection',
  'kernel-refused': 'the kernel does not attach tracing programs to it, and does not say why',
} as const;

export type KernelRefusal = keyof typeof KERNEL_REFUSALS;

/** A reason with its sentence, and what there is to say about this function. */
export function kernelRefusal(reason: KernelRefusal, more?: string): SkipReason {
  const sentence = KERNEL_REFUSALS[reason];
  return { reason, detail: more === undefined ? sentence : `${sentence}: ${more}` };
}

interface DeniedFunctions {
  readonly names: readonly string[];
  readonly why: string;
}

/** Left out whatever the program. */
export const KERNEL_DENIED: readonly DeniedFunctions[] = [
  {
    names: [
      'migrate_disable',
      'migrate_enable',
      '___migrate_enable',
      '__rcu_read_lock',
      '__rcu_read_unlock',
      'rcu_read_unlock_strict',
      'preempt_count_add',
      'preempt_count_sub',
    ],
    why: 'the code around every tracing program calls it',
  },
  {
    // The kernel takes it, and hangs: the end of a program on it would call it again, without end.
    names: ['rcu_read_unlock_special'],
    why: 'the end of a tracing program may call it: a program on it would call itself until the machine stands still',
  },
];

/** Left out for programs at the return. */
export const NEVER_RETURNING: readonly DeniedFunctions[] = [
  {
    names: [
      '__x64_sys_exit',
      '__x64_sys_exit_group',
      '__ia32_sys_exit',
      '__ia32_sys_exit_group',
      'do_exit',
      'do_group_exit',
      'kthread_complete_and_exit',
      'kthread_exit',
      'make_task_dead',
      '__module_put_and_kthread_exit',
    ],
    why: 'it ends its thread and never returns: what waits for its return could never be freed',
  },
];

const denied = sentences(KERNEL_DENIED);
const neverReturning = sentences(NEVER_RETURNING);

function sentences(lists: readonly DeniedFunctions[]): ReadonlyMap<string, string> {
  return new Map(lists.flatMap(({ names, why }) => names.map((name): [string, string] => [name, why])));
}

/** Why a function with this name must not be traced by a program of this kind. */
export function deniedByName(name: string, attachType: AttachType): SkipReason | undefined {
  const why = denied.get(name);
  if (why !== undefined) return { reason: 'denied', detail: why };
  const never = attachType === 'fentry' ? undefined : neverReturning.get(name);
  return never === undefined ? undefined : { reason: 'no-return', detail: never };
}

/** Names that the compiler gave to a changed copy, or to a piece, of a function. */
const CHANGED_NAME = /\.(isra|constprop|part)\.\d/;
/** A piece of a function that is jumped to: no function. */
const PIECE_NAME = /\.cold(\.\d+)?$/;

export function isPiece(name: string): boolean {
  return name.includes('.cold') && PIECE_NAME.test(name);
}

export function hasChangedArguments(name: string): boolean {
  return name.includes('.') && CHANGED_NAME.test(name);
}

/** Functions that say so themselves, wherever they are. */
const MODIFIABLE: ReadonlySet<string> = new Set(['bpf_fentry_test1', 'update_socket_protocol']);

/** Functions whose result programs may change on every kernel that has them, by name in the types. */
export function isAlwaysModifiable(name: string): boolean {
  return name.startsWith('security_') || name.startsWith('bpf_modify_return_test') || MODIFIABLE.has(name);
}

/** System calls: marked for error injection where the kernel has that, and free for programs since Linux 7. */
export function isSystemCall(name: string): boolean {
  return name.startsWith('__x64_sys_');
}

/** Linux 6.6 is the first whose programs are given the arguments that are on the stack. */
const STACK_ARGUMENTS_SINCE = [6, 6] as const;

/** How many words of arguments tracing programs can be given by a kernel of this release (`uname -r`). */
export function mostArgumentWords(release: string): number {
  const [major = 0, minor = 0] = release.split('.').map(part => Number.parseInt(part, 10));
  const [sinceMajor, sinceMinor] = STACK_ARGUMENTS_SINCE;
  const isOld = major < sinceMajor || (major === sinceMajor && minor < sinceMinor);
  return isOld ? ARGUMENT_REGISTERS : MOST_ARGUMENT_WORDS;
}

const WORD = 8;
const LARGEST_ARGUMENT = 2 * WORD;

/** Why a tracing program can't be given what such a function takes and returns; `undefined` where it can. */
export function prototypeRefusal(
  { btf, args = [], returns = 0, variadic }: FunctionPrototype,
  mostWords: number,
): SkipReason | undefined {
  if (btf === undefined) return kernelRefusal('no-types');
  if (variadic) return kernelRefusal('variadic');
  if (isComposite(btf, returns)) return kernelRefusal('struct-result');
  let words = 0;
  for (const argument of args) {
    const size = btf.sizeOf(argument);
    if (size > LARGEST_ARGUMENT) return kernelRefusal('large-argument');
    words += Math.ceil(size / WORD);
  }
  return words > mostWords ? kernelRefusal('too-many-arguments') : undefined;
}

function isComposite(btf: Btf, id: number): boolean {
  const kind = id === 0 ? 'void' : btf.kindOf(btf.resolve(id));
  return kind === 'struct' || kind === 'union';
}
