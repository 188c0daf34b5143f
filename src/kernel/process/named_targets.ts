/** Exact names, `[MODULE:]FUNCTION`, as functions of a live process: as libbpf has them in a multi-link's list. */

import { moduleNames } from '../../process/symbols/selector.js';
import type { ProcessTarget, Targets } from './targets.js';

/** For each name the functions that have it. A name without a module is looked for in all. */
export function lookUpNames(names: readonly string[], targets: Targets): ProcessTarget[][] {
  const byModule = new Map<string, string[]>();
  for (const text of names) {
    const { module, name } = split(text);
    const list = byModule.get(module);
    if (list === undefined) byModule.set(module, [name]);
    else list.push(name);
  }
  const found = new Map<string, ProcessTarget[]>();
  for (const [module, wanted] of byModule) {
    const inModule = ({ path }: { path: string }): boolean =>
      module === '' || path === module || moduleNames(path).includes(module);
    for (const target of targets.named(wanted, inModule))
      for (const name of new Set([target.name, ...target.aliases])) {
        const key = `${module}:${name}`;
        const list = found.get(key);
        if (list === undefined) found.set(key, [{ ...target, name }]);
        // Two versions of one name whose IFUNCs chose the same code are one function.
        else if (list.every(({ address }) => address !== target.address)) list.push({ ...target, name });
      }
  }
  return names.map(text => {
    const { module, name } = split(text);
    return preferred(name, found.get(`${module}:${name}`) ?? []);
  });
}

/** Of several in one module, the one whose first name it is: an older version of a function has it behind others. */
function preferred(name: string, candidates: readonly ProcessTarget[]): ProcessTarget[] {
  const first = candidates.filter(({ aliases }) => aliases[0] === name);
  const inOne = new Set(candidates.map(({ owner }) => owner)).size === 1;
  return inOne && first.length === 1 ? first : [...candidates];
}

/** The last single `:` ends the module; `::` belongs to a C++ name. */
function split(text: string): { module: string; name: string } {
  const match = /^((?:[^:]|::)*?):(?!:)(.*)$/s.exec(text);
  return match === null ? { module: '', name: text } : { module: match[1], name: match[2] };
}
