/**
 * What the running kernel offers, found out by trying: tiny programs are loaded and let go, and where a refusal comes
 * only with the link, one is made on a function that nothing calls (`bpf_fentry_test1`, for tests of the kernel's own),
 * and goes at once. Each is asked for once, when somebody wants to know.
 */

import { closeSync, openSync, readdirSync, readSync } from 'node:fs';
import { ProgramBuilder, R0, R1, R2, R3, R10 } from '../../bpf/builder.js';
import { HELPER } from '../../bpf/helpers.js';
import type { BpfInsn } from '../../bpf/instruction.js';
import { MAP_FLAG, MAP_TYPE } from '../../bpf/map_type.js';
import { BpfError, errnoName } from '../errno.js';
import type { AttachType, Way } from '../kernel.js';
import {
  type Answer,
  tryKprobeMultiLink,
  tryLink,
  tryMap,
  tryMultiLink,
  tryProgram,
  tryStats,
} from './attempt.js';
import { ATTACH, PROG_TYPE } from './bpf.js';
import { KERNEL_MODULE, KernelTypes } from './kernel_types.js';
import { missingPrivilege, NO_KERNEL_TYPES, whyNoFtrace, whyRefused } from './refusal.js';

const TYPES = '/sys/kernel/btf';
export const TRACEFS = ['/sys/kernel/tracing', '/sys/kernel/debug/tracing'] as const;
/** Functions of the kernel for tests of tracing, which nothing else calls. */
const TEST_FUNCTION = 'bpf_fentry_test1';
const MODIFIABLE_TEST_FUNCTION = 'bpf_modify_return_test';
const SECURITY_HOOK = 'security_file_open';
/** No function has this name. */
const NO_FUNCTION = 'multitrace asks';
const PAGE = 4096;
/** Bytes of /proc/kallsyms in which there is a function. */
const SYMBOLS = 1 << 19;
/** What a kernel says that takes a multi program for a plain one. */
const NO_TARGET = /must provide btf_id/;
/** What parts of the kernel answer that do not have something; no number of user space. */
const ENOTSUPP = 524;

/** What there may be, and in which order it is told. */
export const FEATURES = {
  bpf: 'bpf(2)',
  privilege: 'tracing programs may be loaded (CAP_BPF, CAP_PERFMON)',
  types: 'types of the kernel (BTF)',
  module_types: 'types of kernel modules (BTF)',
  ftrace: 'list of functions that can be traced (ftrace)',
  addresses: 'addresses of functions (kallsyms)',
  fentry_multi: 'tracing multi-link at entries',
  fexit_multi: 'tracing multi-link at returns',
  fsession_multi: 'tracing multi-link over calls',
  kprobe_multi: 'kprobe multi-link',
  kprobe_session: 'kprobe multi-link over calls',
  fentry: 'fentry',
  fexit: 'fexit',
  fmod_ret: 'fmod_ret',
  fsession: 'fsession',
  tracing_cookie: 'cookies of tracing programs',
  func_args: 'arguments of any function (bpf_get_func_arg)',
  session_kfuncs: 'functions for sessions (bpf_session_cookie)',
  rdonly_cast: 'pointers to kernel types (bpf_rdonly_cast)',
  kernel_memory: 'reading of kernel memory (bpf_probe_read_kernel)',
  ring_buffer: 'ring buffers',
  mmapable_array: 'arrays that are mapped (BPF_F_MMAPABLE)',
  stats: 'run counts and times of programs',
} as const;

export type FeatureName = keyof typeof FEATURES;

export interface Feature {
  readonly name: FeatureName;
  readonly there: boolean;
  /** Why not, in a sentence. */
  readonly why?: string;
}

/** By which ways a program of an attach type can be on many functions, the best first. */
export interface WayOffer {
  readonly attachType: AttachType;
  readonly ways: readonly Way[];
  /** Why there is none. */
  readonly why?: string;
}

type Verdict = string | undefined;

/** The running kernel's. `types`: for who has them already. */
export class KernelFeatures {
  readonly #known = new Map<FeatureName, Feature>();
  readonly #ids = new Map<string, number | undefined>();
  #types: KernelTypes | undefined;

  constructor(types?: KernelTypes) {
    this.#types = types;
  }

  has(name: FeatureName): boolean {
    return this.feature(name).there;
  }

  feature(name: FeatureName): Feature {
    let known = this.#known.get(name);
    if (known === undefined) {
      const why = this.#try(name);
      known = why === undefined ? { name, there: true } : { name, there: false, why };
      this.#known.set(name, known);
    }
    return known;
  }

  all(): Feature[] {
    return (Object.keys(FEATURES) as FeatureName[]).map(name => this.feature(name));
  }

  /** The ways for programs of this type, by what the kernel offers; what a program needs may exclude some. */
  ways(attachType: AttachType): WayOffer {
    const found: Way[] = [];
    const refused: string[] = [];
    const offer = (way: Way, ...features: FeatureName[]): void => {
      const missing = features.map(name => this.feature(name)).find(({ there }) => !there);
      if (missing === undefined) found.push(way);
      else if (missing.why !== undefined) refused.push(missing.why);
    };
    if (attachType !== 'fmod_ret') {
      offer('tracing_multi', `${attachType}_multi`);
      // Functions are known by their types in every way.
      offer('kprobe_multi', 'types', 'kprobe_multi');
    }
    if (attachType === 'fsession' && !this.has('fsession')) offer('tracing', 'fentry', 'fexit');
    else offer('tracing', attachType);
    if (found.length > 0) return { attachType, ways: found };
    // The plain program's reason is the one that no newer kernel would mend.
    return { attachType, ways: [], why: refused.at(-1) ?? 'nothing here can do it' };
  }

  #try(name: FeatureName): Verdict {
    switch (name) {
      case 'bpf':
        return told(tryMap(MAP_TYPE.ARRAY, 4, 8, 1));
      case 'privilege':
        return (
          this.feature('bpf').why ??
          missingPrivilege() ??
          told(tryProgram({ type: PROG_TYPE.KPROBE, insns: nothing() }))
        );
      case 'types':
        return this.#kernelTypes();
      case 'module_types':
        return moduleTypes();
      case 'ftrace':
        return TRACEFS.some(folder => canRead(`${folder}/available_filter_functions`))
          ? undefined
          : whyNoFtrace(TRACEFS);
      case 'addresses':
        return addresses();
      case 'fentry':
        return this.#tracing(ATTACH.TRACE_FENTRY, '5.5');
      case 'fexit':
        return this.#tracing(ATTACH.TRACE_FEXIT, '5.5');
      case 'fmod_ret':
        return this.#modifyReturn();
      case 'fsession':
        return this.#tracing(ATTACH.TRACE_FSESSION, '7');
      case 'fentry_multi':
        return this.#multi(ATTACH.TRACE_FENTRY_MULTI);
      case 'fexit_multi':
        return this.#multi(ATTACH.TRACE_FEXIT_MULTI);
      case 'fsession_multi':
        return this.#multi(ATTACH.TRACE_FSESSION_MULTI);
      case 'kprobe_multi':
        return this.#kprobes(ATTACH.TRACE_KPROBE_MULTI, '5.18');
      case 'kprobe_session':
        return this.#kprobes(ATTACH.TRACE_KPROBE_SESSION, '6.10');
      case 'tracing_cookie':
        return this.#helper(HELPER.get_attach_cookie, '5.19');
      case 'func_args':
        return this.#helper(HELPER.get_func_arg_cnt, '5.17');
      case 'session_kfuncs':
        return this.#kernelFunction('bpf_session_cookie', '6.10');
      case 'rdonly_cast':
        return this.#kernelFunction('bpf_rdonly_cast', '6.2');
      case 'kernel_memory':
        return this.#kernelMemory();
      case 'ring_buffer':
        return this.feature('bpf').why ?? told(tryMap(MAP_TYPE.RINGBUF, 0, 0, PAGE), '5.8');
      case 'mmapable_array':
        return this.feature('bpf').why ?? told(tryMap(MAP_TYPE.ARRAY, 4, 8, 1, MAP_FLAG.MMAPABLE), '5.5');
      case 'stats':
        return this.feature('bpf').why ?? told(tryStats(), '5.8');
    }
  }

  #kernelTypes(): Verdict {
    try {
      this.#types ??= KernelTypes.open();
      return this.#types.vmlinux.typeCount > 0 ? undefined : NO_KERNEL_TYPES;
    } catch (cause) {
      if (!(cause instanceof BpfError)) throw cause;
      return cause.message;
    }
  }

  /** The BTF id of a function of the kernel. */
  #id(name: string): number | undefined {
    if (!this.#ids.has(name)) this.#ids.set(name, this.#types?.functionId(KERNEL_MODULE, name));
    return this.#ids.get(name);
  }

  /** What every tracing program needs. */
  #needed(): Verdict {
    return this.feature('privilege').why ?? this.feature('types').why;
  }

  #tracing(attach: number, since: string, name = TEST_FUNCTION): Verdict {
    const needed = this.#needed();
    if (needed !== undefined) return needed;
    const btfId = this.#id(name);
    if (btfId === undefined) return `it can't be tried: this kernel has no ${name}`;
    const program = { type: PROG_TYPE.TRACING, attach, btfId, insns: nothing() };
    return told(
      tryProgram(program, fd => tryLink(fd, attach)),
      since,
    );
  }

  /** Which functions may be modified depends on how the kernel was built; hooks of security modules may wherever there are any. */
  #modifyReturn(): Verdict {
    const why = this.#tracing(ATTACH.MODIFY_RETURN, '5.7', MODIFIABLE_TEST_FUNCTION);
    const btfId = why === undefined ? undefined : this.#id(SECURITY_HOOK);
    if (btfId === undefined) return why;
    // The hook is called all the time: the program is only loaded.
    const attach = ATTACH.MODIFY_RETURN;
    return told(tryProgram({ type: PROG_TYPE.TRACING, attach, btfId, insns: nothing() }), '5.7');
  }

  #multi(attach: number): Verdict {
    const needed = this.#needed();
    if (needed !== undefined) return needed;
    const program = { type: PROG_TYPE.TRACING, attach, insns: nothing() };
    const btfId = this.#id(TEST_FUNCTION);
    const link = (fd: number): Answer =>
      btfId === undefined ? { errno: 0, log: '' } : tryMultiLink(fd, attach, btfId);
    return told(tryProgram(program, link), '7');
  }

  /** A name that no function has is looked up last, so that nothing is attached. */
  #kprobes(attach: number, since: string): Verdict {
    const { why } = this.feature('privilege');
    if (why !== undefined) return why;
    const program = { type: PROG_TYPE.KPROBE, attach, insns: nothing() };
    const answer = tryProgram(program, fd => tryKprobeMultiLink(fd, attach, NO_FUNCTION));
    const code = errnoName(answer.errno);
    if (code === 'ESRCH' || code === 'ENOENT') return undefined;
    if (code === 'EOPNOTSUPP') return 'this kernel was built without it (CONFIG_FPROBE)';
    return told(answer, since);
  }

  #helper(helper: number, since: string): Verdict {
    const { why } = this.feature('fentry');
    if (why !== undefined) return why;
    const b = new ProgramBuilder();
    b.call(helper);
    b.mov(R0, 0);
    b.exit();
    const btfId = this.#id(TEST_FUNCTION);
    return told(
      tryProgram({
        type: PROG_TYPE.TRACING,
        attach: ATTACH.TRACE_FENTRY,
        ...(btfId === undefined ? {} : { btfId }),
        insns: b.build(),
      }),
      since,
    );
  }

  #kernelFunction(name: string, since: string): Verdict {
    const { why } = this.feature('types');
    if (why !== undefined) return why;
    return this.#id(name) === undefined ? tooOld(since) : undefined;
  }

  /** A locked-down kernel takes the helper away. */
  #kernelMemory(): Verdict {
    const { why } = this.feature('privilege');
    if (why !== undefined) return why;
    const b = new ProgramBuilder();
    b.mov(R1, R10);
    b.add(R1, -8);
    b.mov(R2, 8);
    b.mov(R3, 0);
    b.call(HELPER.probe_read_kernel);
    b.mov(R0, 0);
    b.exit();
    const answer = tryProgram({ type: PROG_TYPE.KPROBE, insns: b.build() });
    if (answer.errno === 0) return undefined;
    return 'this kernel is locked down (confidentiality), which refuses it: start it without lockdown';
  }
}

/** `r0 = 0; exit` */
function nothing(): BpfInsn[] {
  const b = new ProgramBuilder();
  b.mov(R0, 0);
  b.exit();
  return b.build();
}

/** `since`: the kernel that had it first, for one that does not know it. */
function told(answer: Answer, since?: string): Verdict {
  const { errno, log } = answer;
  if (errno === 0) return undefined;
  const code = errnoName(errno);
  const why = whyRefused(code);
  if (why !== undefined) return why;
  const words = log.split('\n').at(-1) ?? '';
  const unknown = code === 'EINVAL' || code === 'EOPNOTSUPP' || errno === ENOTSUPP;
  // Who does not know a type of program has nothing to say about it.
  if (since !== undefined && unknown && (words === '' || NO_TARGET.test(words))) return tooOld(since);
  return `the kernel refuses it with ${code ?? `errno ${errno}`}${words && `: ${words}`}`;
}

function tooOld(since: string): string {
  return `this kernel has it not: it came with Linux ${since}`;
}

function moduleTypes(): Verdict {
  try {
    if (readdirSync(TYPES).some(name => name !== 'vmlinux')) return undefined;
  } catch {
    return NO_KERNEL_TYPES;
  }
  return 'no kernel module with types is loaded';
}

function addresses(): Verdict {
  const first = head('/proc/kallsyms', SYMBOLS);
  if (first === undefined) return 'this kernel has no /proc/kallsyms (CONFIG_KALLSYMS)';
  // Where kernels have variables of CPUs, their symbols begin at 0.
  if (/^ffff[0-9a-f]+ [tT] /m.test(first)) return undefined;
  return process.getuid?.() === 0
    ? 'the kernel hides them even from root: sysctl kernel.kptr_restrict=1'
    : 'the kernel hides them: run it as root';
}

/** The beginning of a file. */
function head(path: string, bytes = PAGE): string | undefined {
  try {
    const fd = openSync(path, 'r');
    try {
      const text = Buffer.alloc(bytes);
      let length = 0;
      // What /proc gives comes in pieces.
      for (let got = -1; got !== 0 && length < bytes; length += got)
        got = readSync(fd, text, length, bytes - length, null);
      return text.toString('latin1', 0, length);
    } finally {
      closeSync(fd);
    }
  } catch {
    return undefined;
  }
}

function canRead(path: string): boolean {
  return (head(path) ?? '') !== '';
}
