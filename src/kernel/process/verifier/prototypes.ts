/**
 * The helpers that a tracing program may call, and what it must hand them (the kernel's `bpf_func_proto`).
 */

import { HELPER } from '../../../bpf/helpers.js';

/** What a helper's argument must be. */
export type ArgumentType =
  /** a map, by `ldMap` */
  | 'const_map_ptr'
  /** memory that holds a key of that map */
  | 'map_key'
  /** memory that holds a value of that map */
  | 'map_value'
  /** the program's context, unchanged */
  | 'ctx'
  /** a number */
  | 'anything'
  /** 8 bytes that the helper writes, whatever it returns */
  | 'ptr_to_uninit_long';

export interface HelperPrototype {
  /** r1, r2, … */
  readonly arguments: readonly ArgumentType[];
  readonly returns: 'integer' | 'map_value_or_null';
}

const PROTOTYPES: ReadonlyMap<number, HelperPrototype> = new Map<number, HelperPrototype>([
  [HELPER.map_lookup_elem, { arguments: ['const_map_ptr', 'map_key'], returns: 'map_value_or_null' }],
  [
    HELPER.map_update_elem,
    { arguments: ['const_map_ptr', 'map_key', 'map_value', 'anything'], returns: 'integer' },
  ],
  [HELPER.map_delete_elem, { arguments: ['const_map_ptr', 'map_key'], returns: 'integer' }],
  [HELPER.get_func_ip, { arguments: ['ctx'], returns: 'integer' }],
  [HELPER.get_attach_cookie, { arguments: ['ctx'], returns: 'integer' }],
  [HELPER.get_func_arg, { arguments: ['ctx', 'anything', 'ptr_to_uninit_long'], returns: 'integer' }],
  [HELPER.get_func_arg_cnt, { arguments: ['ctx'], returns: 'integer' }],
]);

/** The prototype of helper `id`; `undefined` for one that tracing programs can't call here. */
export function prototypeOf(id: number): HelperPrototype | undefined {
  return PROTOTYPES.get(id);
}
