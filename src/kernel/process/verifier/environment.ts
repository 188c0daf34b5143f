/**
 * What a program is verified for: where it will be attached, and the maps that it names.
 */

/** Where tracing programs attach (BPF_TRACE_FENTRY, BPF_TRACE_FEXIT, BPF_MODIFY_RETURN). */
export type AttachType = 'fentry' | 'fexit' | 'fmod_ret';

/** What the verifier and the JIT need to know of a map. Sizes in bytes. */
export interface MapSpec {
  readonly id: number;
  /** a number of `MAP_TYPE` */
  readonly type: number;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
}

export interface VerifierEnv {
  readonly attachType: AttachType;
  /** arguments of the traced function that the context holds */
  readonly nargs: number;
  /** by the number that `ldMap` was given */
  readonly maps: ReadonlyMap<number, MapSpec>;
}
