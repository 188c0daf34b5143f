/** What programs and links of the kernel machine need of it. */

import type { AttachType, LinkTarget, MapCreateAttr, SkipReason, TargetFunction, Way } from '../kernel.js';
import { ATTACH } from './bpf.js';
import type { ContextKernel } from './context/rewrite.js';
import type { KernelFeatures } from './features.js';
import type { KernelFunctions } from './functions.js';
import type { KernelTypes } from './kernel_types.js';
import type { LinuxMap } from './map.js';
import type { LoadedProg, LoadRequest } from './program.js';

export interface LinuxOptions {
  /** Attach in this way or not at all; the best that the kernel has where left out. */
  readonly way?: Way;
  /** How many functions a program is attached to by a link for each, at most (1,000). */
  readonly maxLinks?: number;
  /** Is told what is being done where that takes over a second. */
  readonly progress?: (text: string) => void;
}

export interface LinuxHost {
  readonly options: LinuxOptions;
  readonly types: KernelTypes;
  readonly targets: KernelFunctions;
  readonly features: KernelFeatures;
  /** What programs whose context is rewritten may use. */
  readonly contextKernel: ContextKernel;
  /** Maps by id, kernel functions by number: as the kernel has them. Throws `VerifierError`, or `BpfError` for what else. */
  load(request: LoadRequest): LoadedProg;
  /** The file descriptor of a module's BTF; 0 for the kernel's own. Throws ENOENT. */
  btfFd(module: string): number;
  mapCreate(attr: MapCreateAttr): LinuxMap;
  nextId(): number;
}

/** A target with its id in the BTF of its module. */
export interface TypedTarget extends LinkTarget {
  readonly btfId: number;
}

/** Why a program of this kind can't be attached to a function by its types. */
export function refusalOf(
  { targets }: LinuxHost,
  attachType: AttachType,
  target: TargetFunction,
): SkipReason | undefined {
  const why = target.unresolved ?? targets.check(target, attachType);
  return why ?? (targets.btfOf(target) === undefined ? NO_TYPES : undefined);
}

/** A target that nothing is said against, with its id. */
export function typed({ targets }: LinuxHost, one: LinkTarget): TypedTarget {
  return { ...one, btfId: targets.btfOf(one.target)!.id };
}

const NO_TYPES: SkipReason = {
  reason: 'no-types',
  detail: 'the kernel has no types of it, and programs are attached by them',
};

/** The kernel's program type and attach type for a plain tracing program. */
export const PLAIN: Readonly<Record<AttachType, number>> = {
  fentry: ATTACH.TRACE_FENTRY,
  fexit: ATTACH.TRACE_FEXIT,
  fmod_ret: ATTACH.MODIFY_RETURN,
  fsession: ATTACH.TRACE_FSESSION,
};

/** For a native multi-link; modify-return programs have none. */
export const NATIVE_MULTI: Readonly<Record<AttachType, number | undefined>> = {
  fentry: ATTACH.TRACE_FENTRY_MULTI,
  fexit: ATTACH.TRACE_FEXIT_MULTI,
  fmod_ret: undefined,
  fsession: ATTACH.TRACE_FSESSION_MULTI,
};
