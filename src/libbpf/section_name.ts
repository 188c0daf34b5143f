/**
 * Section names of libbpf, which say what a program is and where it goes: `[?]TYPE[.multi][.s][/SELECTORS]`. Behind the
 * slash stand selectors, `MODULE:FUNCTION`, several apart by commas or spaces; a name without a module means the main
 * program. A `?` before it: not loaded unless asked for.
 */

import { BpfError } from '../kernel/errno.js';
import type { AttachType } from '../kernel/kernel.js';

/** What a section's name says. */
export interface SectionName {
  /** As it stands in the file. */
  readonly text: string;
  readonly attachType: AttachType;
  /** One link on any number of functions, whose arguments are checked against the first. */
  readonly multi: boolean;
  readonly sleepable: boolean;
  /** `false` for `?…`. */
  readonly autoload: boolean;
  /** None where the name has no slash: the target is set before loading. */
  readonly selectors: readonly string[];
}

const PATTERN = /^(\??)(fentry|fexit|fmod_ret|fsession)(\.multi)?(\.s)?(?:\/(.*))?$/s;

/** The first words of libbpf's other section names, and what such programs hang on. */
const OTHER_TYPES: readonly (readonly [RegExp, string])[] = [
  [/^(k|kret|u|uret)?probe|^kprobe|^kretprobe|^uprobe|^uretprobe/, 'probes of the kernel'],
  [/^k(ret)?syscall/, 'system calls'],
  [/^usdt/, 'static probes'],
  [/^(tracepoint|tp|raw_tracepoint|raw_tp|tp_btf)(\.w)?(\/|$)/, "the kernel's tracepoints"],
  [
    /^xdp|^tc|^tcx|^classifier|^action|^socket|^sk_|^sockops|^lwt_|^flow_dissector|^netfilter|^netkit/,
    'the network',
  ],
  [/^cgroup/, 'control groups'],
  [/^lsm/, "the kernel's security hooks"],
  [/^iter/, "the kernel's objects"],
  [/^perf_event/, 'performance events'],
  [/^freplace/, 'other BPF programs'],
  [/^struct_ops/, 'structures of kernel functions'],
  [/^syscall/, 'bpf(2) itself'],
  [/^sys_(enter|exit)/, 'system calls'],
];

/** Reads a section's name. Throws EOPNOTSUPP for a program of another type, with the name of it. */
export function parseSectionName(text: string): SectionName {
  const match = PATTERN.exec(text);
  if (match === null) throw unsupported(text);
  const [, question, attachType, multi, sleepable, selectors] = match;
  return {
    text,
    attachType: attachType as AttachType,
    multi: multi !== undefined,
    sleepable: sleepable !== undefined,
    autoload: question === '',
    selectors: selectors === undefined ? [] : splitSelectors(selectors),
  };
}

function unsupported(text: string): BpfError {
  const bare = text.replace(/^\?/, '');
  const other = OTHER_TYPES.find(([pattern]) => pattern.test(bare));
  const why =
    other === undefined
      ? 'it is no section name of libbpf that is known here'
      : `programs of this type hang on ${other[1]}, and a process has none of that`;
  return new BpfError(
    'EOPNOTSUPP',
    `section "${text}": ${why}; use fentry, fexit, fmod_ret or fsession (each also with .multi), for example SEC("fentry.multi/libc:malloc")`,
  );
}

/** Splits at commas and spaces outside brackets, which are character classes of globs. */
export function splitSelectors(text: string): string[] {
  const parts: string[] = [];
  let part = '';
  let inClass = false;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === '\\') {
      part += char + (text[++at] ?? '');
      continue;
    }
    if (char === '[') inClass = true;
    else if (char === ']') inClass = false;
    if (!inClass && (char === ',' || /\s/.test(char))) {
      if (part !== '') parts.push(part);
      part = '';
    } else part += char;
  }
  if (part !== '') parts.push(part);
  return parts;
}
