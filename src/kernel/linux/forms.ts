/**
 * What the kernel is to load for a program of ours, way by way: one of its programs, or two where the kernel has none that
 * runs at both ends of a call. In the order in which they are attached: what runs at the return comes first, so that no call
 * is seen to enter whose return would be missed.
 */

import type { AttachType } from '../kernel.js';
import { ATTACH, PROG_TYPE } from './bpf.js';
import type { ContextForm, ContextUse } from './context/rewrite.js';
import { NATIVE_MULTI, PLAIN } from './host.js';

/** One program of the kernel's. */
export interface PartForm {
  readonly context: ContextForm;
  /** `PROG_TYPE` */
  readonly type: number;
  /** `ATTACH` */
  readonly attach: number;
  /** A kprobe multi-link of it is at the return. */
  readonly atReturn: boolean;
}

/** At which ends of a call a program runs. */
const RUNS: Readonly<Record<AttachType, ContextForm['runs']>> = {
  fentry: 'entry',
  fexit: 'return',
  fmod_ret: 'entry',
  fsession: 'session',
};

/** For a native multi-link. */
export function nativeForm(attachType: AttachType): PartForm {
  return {
    context: { context: 'trampoline', runs: RUNS[attachType] },
    type: PROG_TYPE.TRACING,
    attach: NATIVE_MULTI[attachType] as number,
    atReturn: false,
  };
}

/** For one function. `context`: `typed` where the program is for its prototype, else `trampoline`. */
export function plainForms(
  attachType: AttachType,
  context: 'typed' | 'trampoline',
  kernel: { readonly sessions: boolean },
): PartForm[] {
  const part = (runs: ContextForm['runs'], attach: number): PartForm => ({
    context: { context, runs },
    type: PROG_TYPE.TRACING,
    attach,
    atReturn: false,
  });
  if (attachType === 'fsession' && !kernel.sessions)
    return [part('return', ATTACH.TRACE_FEXIT), part('entry', ATTACH.TRACE_FENTRY)];
  return [part(RUNS[attachType], PLAIN[attachType])];
}

/** For a kprobe multi-link. At the return a kprobe has no arguments: a program that reads them there is at the entry, too. */
export function kprobeForms(
  attachType: AttachType,
  use: ContextUse,
  kernel: { readonly sessions: boolean },
): PartForm[] {
  const part = (runs: ContextForm['runs'], attach: number, atReturn = false): PartForm => ({
    context: { context: 'pt_regs', runs, halves: true },
    type: PROG_TYPE.KPROBE,
    attach,
    atReturn,
  });
  const atEntry = part('entry', ATTACH.TRACE_KPROBE_MULTI);
  const atReturn = part('return', ATTACH.TRACE_KPROBE_MULTI, true);
  if (attachType === 'fentry') return [atEntry];
  if (attachType === 'fexit' && use.return?.words.length === 0 && use.return.asked.length === 0)
    return [atReturn];
  return kernel.sessions ? [part('session', ATTACH.TRACE_KPROBE_SESSION)] : [atReturn, atEntry];
}
