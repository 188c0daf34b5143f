/**
 * Compares our verifier's verdict with the kernel's, one case at a time: which programs there is something to compare
 * in, what they are verified as, and how it came out.
 */

import {
  type BpfInsn,
  CALL,
  CLASS,
  CLASS_MASK,
  CODE_MASK,
  JMP,
  MODE,
  MODE_MASK,
} from '../../src/bpf/instruction.js';
import { mapTypeName } from '../../src/bpf/map_type.js';
import type { Btf } from '../../src/btf/btf.js';
import { BpfError } from '../../src/kernel/errno.js';
import type { AttachType } from '../../src/kernel/kernel.js';
import type { MapSpec, VerifierEnv } from '../../src/kernel/process/verifier/environment.js';
import { prototypeOf } from '../../src/kernel/process/verifier/prototypes.js';
import { verifyProgram } from '../../src/kernel/process/verifier/verifier.js';
import type { Case } from './annotated.js';
import { readingOurContext, withoutResult } from './rewrite.js';

export type Outcome = 'same' | 'stricter' | 'laxer' | 'excluded';

export interface Judged {
  readonly test: Case;
  readonly outcome: Outcome;
  /** Our refusal, or why there is nothing to compare. */
  readonly reason: string;
  readonly milliseconds: number;
}

/** The highest number of a helper in the kernel that the tests are of: more are wrong everywhere. */
const LAST_HELPER = 211;

/** Context accesses and results that are changed in one test at most. */
const MOST_CHANGES = 40;

export function judge(test: Case): Judged {
  const begin = performance.now();
  const before = notComparable(test);
  if (before !== undefined) return { test, outcome: 'excluded', reason: before, milliseconds: 0 };
  const refusal = test.undecodable ?? refusalOf(test);
  const milliseconds = performance.now() - begin;
  const after = saysOtherThing(test, refusal);
  if (after !== undefined) return { test, outcome: 'excluded', reason: after, milliseconds };
  if ((refusal === undefined) === test.accepted)
    return { test, outcome: 'same', reason: refusal ?? '', milliseconds };
  return refusal === undefined
    ? { test, outcome: 'laxer', reason: test.messages.join(' … '), milliseconds }
    : { test, outcome: 'stricter', reason: refusal, milliseconds };
}

/** Our refusal of the test as one of our program types. */
function refusalOf(test: Case): string | undefined {
  let now = test;
  let called = false;
  for (let changes = 0; ; changes++) {
    const refusal = refusalOfProgram(now);
    const slot = /^insn (\d+): .*invalid bpf_context access/s.exec(refusal ?? '')?.[1];
    const result: boolean =
      !called &&
      attachTypeOf(test.section) === 'fmod_ret' &&
      /R0 leaks addr as return value/.test(refusal ?? '');
    const next: Case | undefined =
      slot !== undefined ? readingOurContext(now, Number(slot)) : result ? withoutResult(now) : undefined;
    called ||= result;
    if (next === undefined || changes === MOST_CHANGES) return refusal;
    now = next;
  }
}

function refusalOfProgram(test: Case): string | undefined {
  try {
    verifyProgram(test.insns, environmentOf(test));
    return undefined;
  } catch (thrown) {
    if (!(thrown instanceof BpfError)) throw thrown;
    return thrown.message;
  }
}

/** What the program is verified as: results of most program types are free, as a modify-return's are here. */
export function environmentOf(test: Case): VerifierEnv {
  const { section, flags, insns: _, maps, btf, funcInfo, lineInfo } = test;
  return {
    attachType: attachTypeOf(section),
    maps: new Map(maps.map(map => [map.id, map])),
    btf,
    funcInfo,
    lineInfo,
    sleepable: flags.has('BPF_F_SLEEPABLE') || /^(\w+)\.s(\/|$)|^syscall/.test(section),
    rememberOften: flags.has('BPF_F_TEST_STATE_FREQ'),
  };
}

function attachTypeOf(section: string): AttachType {
  if (/^fentry/.test(section)) return 'fentry';
  if (/^fexit/.test(section)) return 'fexit';
  // Programs that say yes or no: their result is 0 or 1, as a session's.
  if (/^(cgroup|cgroup_skb)\/(skb|ingress|sock|dev|sysctl|connect|sendmsg)|^netfilter|^sockops/.test(section))
    return 'fsession';
  return 'fmod_ret';
}

/** What no process has, seen from the program. */
function notComparable(test: Case): string | undefined {
  if (test.unlinked !== undefined) return reasonOfUnlinked(test.unlinked);
  if (test.flags.has('BPF_F_STRICT_ALIGNMENT') && !test.accepted) return 'for processors that align strictly';
  for (const insn of test.insns) {
    const reason = foreign(insn);
    if (reason !== undefined) return reason;
  }
  for (const map of test.maps) {
    const reason = foreignMap(map);
    if (reason !== undefined) return reason;
  }
  return undefined;
}

function reasonOfUnlinked(unlinked: string): string {
  if (/it calls/.test(unlinked)) return 'kernel function not here';
  if (/types of a kernel|refers to/.test(unlinked)) return 'types, variables or settings of a kernel';
  return unlinked;
}

function foreign({ opcode, src, imm }: BpfInsn): string | undefined {
  const kind = opcode & CLASS_MASK;
  const mode = opcode & MODE_MASK;
  if (kind === CLASS.LD && (mode === MODE.ABS || mode === MODE.IND)) return 'packet access';
  const calls = kind === CLASS.JMP && (opcode & CODE_MASK) === JMP.CALL;
  if (calls && src === CALL.HELPER && imm > 0 && imm <= LAST_HELPER && prototypeOf(imm) === undefined)
    return 'helper not here';
  return undefined;
}

const MAPS_HERE =
  /^(hash|array|prog_array|perf_event_array|percpu_hash|percpu_array|stack_trace|lru_hash|lru_percpu_hash|lpm_trie|array_of_maps|hash_of_maps|queue|stack|ringbuf|task_storage|bloom_filter)$/;
const FIELDS = /^(bpf_timer|bpf_wq|bpf_list_head|bpf_rb_root|bpf_refcount|bpf_list_node|bpf_rb_node)$/;

function foreignMap(map: MapSpec): string | undefined {
  if (!MAPS_HERE.test(mapTypeName(map.type) ?? '')) return 'map type not here';
  const { btf, btfValueTypeId } = map;
  if (btf !== undefined && btfValueTypeId !== undefined && holdsObjects(btf, btfValueTypeId))
    return 'a map with a timer, or pointers of the kernel';
  return map.innerMap === undefined ? undefined : foreignMap(map.innerMap);
}

function holdsObjects(btf: Btf, id: number): boolean {
  if (id === 0) return false;
  const type = btf.type(btf.resolve(id));
  if (type.kind === 'array') return holdsObjects(btf, type.type);
  if (type.kind === 'ptr') {
    const tag = btf.type(type.type);
    return tag.kind === 'type_tag' && /^(percpu_)?kptr/.test(tag.name ?? '');
  }
  if (type.kind !== 'struct' && type.kind !== 'union') return false;
  return FIELDS.test(type.name ?? '') || type.members.some(member => holdsObjects(btf, member.type));
}

/** The kernel's refusals of what only other program types have. */
const THEIRS: readonly (readonly [RegExp, string])[] = [
  [/invalid bpf_context access|invalid ctx access/, 'context of another program type'],
  [
    /invalid access to packet|pkt_ptr|type=pkt|pkt_end|type=sock|type=.*sock_or_null/,
    'packet or socket access',
  ],
  [/program of this type cannot use helper|cannot use helper/, 'helper not for that program type'],
  [/disabled hook|can be sleepable|attach to unsupported/, 'attach rule of another program type'],
];
/** Ours, for the same. */
const OURS: readonly (readonly [RegExp, string])[] = [
  [/invalid bpf_context access|cannot write into ctx/, 'context of another program type'],
  [/R1 type=ctx expected=fp, map_value, mem/, 'context of another program type'],
  [/unknown#2002000000/, 'kernel function not here'],
  [/R\d invalid mem access 'map_ptr'/, 'types, variables or settings of a kernel'],
  [/cannot return stack pointer to the caller/, 'result rule of another program type'],
];

function saysOtherThing(test: Case, refusal: string | undefined): string | undefined {
  for (const [pattern, reason] of OURS) if (pattern.test(refusal ?? '') && test.accepted) return reason;
  if (/invalid bpf_context access/.test(refusal ?? '')) return 'context of another program type';
  // What such programs are handed has types in a kernel, and is a number without.
  if (test.accepted && /^tp_btf/.test(test.section) && /type=scalar expected=/.test(refusal ?? ''))
    return 'types, variables or settings of a kernel';
  if (/^sk_msg/.test(test.section) && /invalid mem access 'scalar'/.test(refusal ?? ''))
    return 'packet or socket access';
  for (const [pattern, reason] of THEIRS)
    if (test.messages.some(message => pattern.test(message))) return reason;
  // Which results a program may have depends on its type.
  const ranged = test.messages.some(message =>
    /should have (been|value)|At program exit|not a known value/.test(message),
  );
  if (ranged && refusal === undefined && attachTypeOf(test.section) === 'fmod_ret')
    return 'result rule of another program type';
  return undefined;
}
