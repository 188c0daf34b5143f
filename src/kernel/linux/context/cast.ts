/** Which arguments are pointers that a program can read through, by the kernel's own types. */

import type { Btf } from '../../../btf/btf.js';

/** Tags of pointers that are no addresses of the kernel's memory, as the kernel's own types have them. */
const ELSEWHERE: ReadonlySet<string> = new Set(['user', 'percpu', 'rcu_percpu']);

/**
 * The structure or union that type `id` points to, as an id of the kernel's types; `undefined` where it is no pointer to
 * one, or not to the kernel's memory, or where only a module knows the structure.
 */
export function castableTo(
  btf: Btf | undefined,
  id: number | undefined,
  types: Btf | undefined,
): number | undefined {
  if (btf === undefined || id === undefined || types === undefined) return undefined;
  if (btf !== types && btf.base !== types) return undefined;
  const pointer = btf.type(btf.resolve(id));
  if (pointer.kind !== 'ptr') return undefined;
  for (let at = pointer.type; ; ) {
    const type = btf.type(at);
    switch (type.kind) {
      case 'type_tag':
        if (ELSEWHERE.has(type.name ?? '')) return undefined;
        at = type.type;
        break;
      case 'typedef':
      case 'const':
      case 'volatile':
      case 'restrict':
        at = type.type;
        break;
      case 'struct':
      case 'union':
        return at <= types.typeCount ? at : undefined;
      default:
        return undefined;
    }
  }
}
