/**
 * Checks every type of BTF data before anything uses it: numbers within their kind, ids and names that exist, chains
 * and values that end, members inside their structs. The rules are those of the kernel's checks at BPF_BTF_LOAD, except
 * that externs, and sections whose size the linker has yet to fill in, are taken as libbpf takes them.
 *
 * All passes are loops with stacks of their own: a chain of a million types must not end ours.
 */

import type { BtfTable } from './table.js';
import { validateLoops } from './validate_loops.js';
import { validateMeta } from './validate_meta.js';
import { validateReferences } from './validate_references.js';

/** Throws EINVAL (ELOOP where types go in circles). `relaxed`: see ParseOptions. */
export function validateTypes(table: BtfTable, relaxed: boolean): void {
  validateMeta(table, relaxed);
  validateLoops(table);
  validateReferences(table, relaxed);
}
