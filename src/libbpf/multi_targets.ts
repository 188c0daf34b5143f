/**
 * What a program is to be attached to, as its user says it: by selectors, names, ids of BTF functions or addresses, each
 * with cookies. Here it becomes functions of the machine.
 */

import { BpfError } from '../kernel/errno.js';
import type { Kernel, LinkPattern, LinkTarget, SkippedFunction, TargetFunction } from '../kernel/kernel.js';
import { SelectorSet } from '../process/symbols/selector.js';
import { splitSelectors } from './section_name.js';

/** A function by its `BTF_KIND_FUNC` in the types of a module (`Kernel.moduleTypes`). */
export interface BtfFunctionId {
  readonly module: string;
  readonly id: number;
}

interface BySelectors {
  /** Apart by commas or spaces; what matches later joins the link. */
  readonly selectors: string | readonly string[];
  /** What `bpf_get_attach_cookie` gives at each; 0 where left out. */
  readonly cookie?: (target: TargetFunction) => bigint;
  readonly names?: never;
  readonly btfIds?: never;
  readonly addresses?: never;
  readonly cookies?: never;
}

interface WithCookies {
  /** One for each, in the same order; 0 where left out. */
  readonly cookies?: readonly bigint[];
  readonly selectors?: never;
  readonly cookie?: never;
}

interface ByNames extends WithCookies {
  /** `[MODULE:]FUNCTION`, without patterns. */
  readonly names: readonly string[];
  readonly btfIds?: never;
  readonly addresses?: never;
}

interface ByBtfIds extends WithCookies {
  readonly btfIds: readonly BtfFunctionId[];
  readonly names?: never;
  readonly addresses?: never;
}

interface ByAddresses extends WithCookies {
  /** Where functions begin, in the process. */
  readonly addresses: readonly bigint[];
  readonly names?: never;
  readonly btfIds?: never;
}

/** One of the four ways, never two at once. */
export type MultiTargets = BySelectors | ByNames | ByBtfIds | ByAddresses;

/** What they came to. */
export interface ResolvedTargets {
  readonly targets: readonly LinkTarget[];
  readonly pattern?: LinkPattern;
  /** Those that there are not, with `skipInvalid`. */
  readonly missing: readonly SkippedFunction[];
}

/**
 * Finds the functions. Throws ENOENT for one that there is not (unless `skipInvalid`), EINVAL for a name that several
 * modules have, and for cookies that are not as many.
 */
export function resolveTargets(kernel: Kernel, wanted: MultiTargets, skipInvalid: boolean): ResolvedTargets {
  if (wanted.selectors !== undefined) return bySelectors(kernel, wanted, skipInvalid);
  const found =
    wanted.names !== undefined
      ? byNames(kernel, wanted.names)
      : wanted.btfIds !== undefined
        ? byBtfIds(kernel, wanted.btfIds)
        : byAddresses(kernel, wanted.addresses);
  const { cookies } = wanted;
  if (cookies !== undefined && cookies.length !== found.length)
    throw new BpfError(
      'EINVAL',
      `there are ${cookies.length} cookies for ${found.length} functions; give one for each, or none`,
    );
  const targets: LinkTarget[] = [];
  const missing: SkippedFunction[] = [];
  for (const [i, one] of found.entries()) {
    if (!(one instanceof BpfError)) targets.push({ target: one, cookie: cookies?.[i] ?? 0n });
    else if (!skipInvalid) throw one;
    else missing.push(missingFunction(wanted, i, one));
  }
  return { targets, missing };
}

function missingFunction(
  { names, btfIds, addresses }: MultiTargets,
  i: number,
  { message }: BpfError,
): SkippedFunction {
  const address = addresses?.[i] ?? 0n;
  const name = names?.[i] ?? (btfIds === undefined ? `0x${address.toString(16)}` : `BTF id ${btfIds[i].id}`);
  return {
    module: btfIds?.[i].module ?? '',
    function: name,
    address,
    reason: 'unknown-function',
    detail: message,
  };
}

/**
 * The functions that selectors match, those of the first selector's first: the program is verified against the first of
 * all, so that who names a typical function before the others says what the others must agree with.
 */
export function matchInOrder(kernel: Kernel, set: SelectorSet): TargetFunction[] {
  const matched = kernel.functions(set);
  const [first, ...others] = set.selectors.filter(({ excludes }) => !excludes);
  if (matched.length < 2 || others.length === 0) return matched;
  const excluding = set.selectors.filter(({ excludes }) => excludes);
  const leading = new Set(
    kernel
      .functions(SelectorSet.parse([first, ...excluding].map(({ text }) => text)))
      .map(({ address }) => address),
  );
  return [
    ...matched.filter(({ address }) => leading.has(address)),
    ...matched.filter(({ address }) => !leading.has(address)),
  ];
}

function bySelectors(
  kernel: Kernel,
  { selectors, cookie }: BySelectors,
  skipInvalid: boolean,
): ResolvedTargets {
  const texts = typeof selectors === 'string' ? splitSelectors(selectors) : selectors;
  const set = SelectorSet.parse(texts);
  const matched = matchInOrder(kernel, set);
  if (matched.length === 0 && !skipInvalid)
    throw new BpfError(
      'ENOENT',
      `no function matches ${texts.join(', ')}; with skipInvalid the link waits for libraries that have one`,
    );
  return {
    targets: matched.map(target => ({
      target,
      cookie: target.unresolved === undefined ? (cookie?.(target) ?? 0n) : 0n,
    })),
    pattern: { selectors: set, ...(cookie === undefined ? {} : { cookie }) },
    missing: [],
  };
}

type Found = TargetFunction | BpfError;

function byNames(kernel: Kernel, names: readonly string[]): Found[] {
  const found = kernel.functionsNamed(names);
  return names.map((name, i) => theOne(found[i], name));
}

/** The only one; an error that names what there is else. */
function theOne(candidates: readonly TargetFunction[], name: string): Found {
  if (candidates.length === 1) return candidates[0];
  if (candidates.length === 0)
    return new BpfError(
      'ENOENT',
      `there is no function ${name}; \`multitrace list\` shows those that there are, and a library's are LIBRARY:FUNCTION`,
    );
  const modules = [...new Set(candidates.map(({ module }) => module))];
  if (modules.length > 1)
    return new BpfError(
      'EINVAL',
      `${modules.join(' and ')} each have a function ${name}; name the module, ${modules[0]}:${name}`,
    );
  const places = candidates.map(({ address }) => `0x${address.toString(16)}`);
  return new BpfError(
    'EINVAL',
    `${modules[0]} has ${places.length} functions ${name}, at ${places.join(', ')}; give the address of the one that is meant`,
  );
}

function byBtfIds(kernel: Kernel, ids: readonly BtfFunctionId[]): Found[] {
  const names = ids.map(({ module, id }): string | BpfError => {
    const btf = kernel.moduleTypes(module);
    if (btf === undefined)
      return new BpfError('ENOENT', `module ${module} has no types, or is not there; attach by name`);
    if (!Number.isInteger(id) || id < 1 || id > btf.typeCount || btf.kindOf(id) !== 'func')
      return new BpfError('EINVAL', `type ${id} of ${module} is no function`);
    return `${module}:${btf.name(id)}`;
  });
  const found = kernel.functionsNamed(names.map(name => (typeof name === 'string' ? name : '')));
  return names.map((name, i) => (typeof name === 'string' ? theOne(found[i], name) : name));
}

function byAddresses(kernel: Kernel, addresses: readonly bigint[]): Found[] {
  return addresses.map(
    address =>
      kernel.functionAt(address) ?? new BpfError('ENOENT', `no function begins at 0x${address.toString(16)}`),
  );
}
