/**
 * Selectors: which functions of which files a user means. `[!][MODULE:]FUNCTION`, both parts globs. Without
 * MODULE the main program is meant; `!` takes functions out again. Only names are looked at here: whether a
 * function can be traced is decided elsewhere.
 */

import { basename } from 'node:path';
import { BpfError } from '../../kernel/errno.js';
import { classEnd, Glob } from './glob.js';

/** A file mapped into a process, as far as selectors care. */
export interface SelectableModule {
  /** Full path, or a name in brackets such as `[vdso]`. */
  readonly path: string;
  /** The program itself, not one of its libraries. */
  readonly isMain: boolean;
  /** Names that it goes by; those of its file where left out. */
  readonly names?: readonly string[];
}

/** One selector, parsed. */
export interface Selector {
  /** As the user typed it. */
  readonly text: string;
  /** `!SELECTOR`: takes functions out. */
  readonly excludes: boolean;
  /** MODULE as it was typed; `undefined`: the main program. */
  readonly module?: string;
  /** Does MODULE (or the lack of it) mean this file? */
  matchesModule(module: SelectableModule): boolean;
  readonly functions: Glob;
}

/** Modules that are no files; their brackets are not a character class. */
const BRACKETED = /^\[(vdso|vsyscall)\]$/;

/**
 * Parses one selector. The first single `:` ends MODULE; `::` belongs to a C++ name. Throws `BpfError` EINVAL
 * with the selector, the position and what to do.
 */
export function parseSelector(text: string): Selector {
  const excludes = text.startsWith('!');
  const start = excludes ? 1 : 0;
  const colon = moduleEnd(text, start);
  const functionStart = colon < 0 ? start : colon + 1;
  if (functionStart === text.length)
    throw new BpfError(
      'EINVAL',
      `selector '${text}' names no function; write [MODULE:]FUNCTION, for example libc:malloc or '*'`,
    );
  if (colon === start)
    throw new BpfError(
      'EINVAL',
      `selector '${text}' has an empty module before ':'; leave out the ':' to mean the main program, or write '*:'`,
    );
  const functions = Glob.compile(text.slice(functionStart), text, functionStart);
  if (colon < 0) return { text, excludes, functions, matchesModule: module => module.isMain };
  const pattern = text.slice(start, colon);
  return { text, excludes, module: pattern, functions, matchesModule: moduleMatcher(pattern, text, start) };
}

/** The position of the `:` after MODULE; -1 when there is no MODULE. */
function moduleEnd(text: string, start: number): number {
  for (let at = start; at < text.length; at++) {
    if (text[at] === '\\') at++;
    else if (text[at] === '[') {
      const end = classEnd(text, at);
      if (end > 0) at = end;
    } else if (text[at] === ':') {
      if (text[at + 1] !== ':') return at;
      at++;
    }
  }
  return -1;
}

function moduleMatcher(pattern: string, text: string, start: number): (module: SelectableModule) => boolean {
  if (BRACKETED.test(pattern)) return module => module.path === pattern;
  const glob = Glob.compile(pattern, text, start);
  if (pattern.includes('/')) return module => glob.matches(module.path);
  return ({ path, names = moduleNames(path) }) => names.some(name => glob.matches(name));
}

/**
 * The names that a file goes by: `libpython3.11.so.1.0` also as `libpython3.11.so.1`, `libpython3.11.so` and
 * `libpython3.11`; `libm-2.31.so` also as `libm-2.31` and `libm`.
 */
export function moduleNames(path: string): string[] {
  const name = basename(path.replace(/ \(deleted\)$/, ''));
  const names = [name];
  const shared = /^(.+)\.so((?:\.\d+)*)$/.exec(name);
  if (!shared) return names;
  const [, stem, version] = shared;
  for (let end = version.lastIndexOf('.'); end >= 0; end = end === 0 ? -1 : version.lastIndexOf('.', end - 1))
    names.push(`${stem}.so${version.slice(0, end)}`);
  names.push(stem);
  const versioned = /^(.+)-\d+(?:\.\d+)+$/.exec(stem);
  if (versioned) names.push(versioned[1]);
  return names;
}

/** What the selectors say about the functions of one module. */
interface ModuleSelection {
  readonly includes: readonly Glob[];
  readonly excludes: readonly Glob[];
  /** Everything of the module is meant, without exception. */
  readonly all: boolean;
}

/** All selectors of one command: a function is meant when one includes it and none excludes it. */
export class SelectorSet {
  readonly selectors: readonly Selector[];
  readonly #selections = new WeakMap<SelectableModule, ModuleSelection>();

  private constructor(selectors: readonly Selector[]) {
    this.selectors = selectors;
  }

  /** Throws `BpfError` EINVAL for a bad selector, for none, and for exclusions alone. */
  static parse(texts: readonly string[]): SelectorSet {
    const selectors = texts.map(parseSelector);
    if (selectors.length === 0)
      throw new BpfError('EINVAL', "no selector given; write [MODULE:]FUNCTION, for example 'libc:*'");
    if (selectors.every(selector => selector.excludes))
      throw new BpfError(
        'EINVAL',
        `only exclusions given (${texts.join(' ')}); add a selector of what to include, for example '*'`,
      );
    return new SelectorSet(selectors);
  }

  /** Could a function of this module be meant? If not, its symbols need not be read. */
  matchesModule(module: SelectableModule): boolean {
    const { includes, excludes } = this.#selectionOf(module);
    return includes.length > 0 && !excludes.some(glob => glob.matchesAll);
  }

  /** Is the function with these names meant? One name is enough to include it, and to exclude it. */
  matchesFunction(module: SelectableModule, aliases: readonly string[]): boolean {
    const { includes, excludes, all } = this.#selectionOf(module);
    return all || (matchesAny(includes, aliases) && !matchesAny(excludes, aliases));
  }

  #selectionOf(module: SelectableModule): ModuleSelection {
    let selection = this.#selections.get(module);
    if (!selection) {
      const matching = this.selectors.filter(selector => selector.matchesModule(module));
      const includes = matching.filter(selector => !selector.excludes).map(selector => selector.functions);
      const excludes = matching.filter(selector => selector.excludes).map(selector => selector.functions);
      const all = excludes.length === 0 && includes.some(glob => glob.matchesAll);
      selection = { includes, excludes, all };
      this.#selections.set(module, selection);
    }
    return selection;
  }
}

function matchesAny(globs: readonly Glob[], names: readonly string[]): boolean {
  for (const glob of globs) for (const name of names) if (glob.matches(name)) return true;
  return false;
}
