/**
 * Types of a module of a process, and what its functions take and return: from a `.BTF` section of the file or of its
 * debug file, or made by pahole from their debug information. Types are a bonus: where there are none, or they can't be
 * used, a function is opaque, and nothing fails.
 */

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Btf } from '../../btf/btf.js';
import { findDebugFile } from '../../elf/debug_file.js';
import { ElfFile } from '../../elf/file.js';
import { BpfError } from '../../kernel/errno.js';
import type { FunctionPrototype } from '../../kernel/kernel.js';
import { TypeCache } from './type_cache.js';

export interface ModuleTypesOptions {
  /** Where the file system of the process begins: /proc/PID/root. */
  readonly root?: string;
  /** Where to keep what pahole makes. */
  readonly cacheDirectory?: string;
  /** How long pahole may take, ms; 20 s where left out. */
  readonly timeoutMs?: number;
  /** The program that makes BTF of debug information; `pahole` where left out. */
  readonly pahole?: string;
}

const TIME_LIMIT_MS = 20_000;

/** Types that were looked for in this run, by build: `null` where there are none. Kept while somebody uses them. */
const known = new Map<string, WeakRef<Btf> | null>();

/** The types of the program or library at `path`; `undefined` where it has none. Seconds the first time. */
export function moduleTypes(path: string, options: ModuleTypesOptions = {}): Btf | undefined {
  try {
    const elf = ElfFile.open(path);
    try {
      const key = keyOf(elf);
      const kept = known.get(key);
      if (kept === null) return undefined;
      const types = kept?.deref() ?? typesOf(elf, key, options);
      if (kept?.deref() === undefined) known.set(key, types === undefined ? null : new WeakRef(types));
      return types;
    } finally {
      elf.close();
    }
  } catch (error) {
    // A damaged or vanished file has no types; who traces it will say what is wrong with it.
    if (error instanceof BpfError) return undefined;
    throw error;
  }
}

/**
 * What a function takes and returns; of several names (aliases of one function), the first that the types have.
 * `undefined` where they have none, and for what takes and returns nothing: it may be written in assembler, which says
 * nothing of it.
 */
export function prototypeOf(btf: Btf, names: string | readonly string[]): FunctionPrototype | undefined {
  for (const name of typeof names === 'string' ? [names] : names) {
    const id = btf.find(name, 'func');
    if (id === undefined) continue;
    const prototype = functionPrototype(btf, id);
    // Assemblers write no prototypes: what they leave of `memcpy` is `void (void)`, as of functions that are that.
    if (prototype.args?.length === 0 && !prototype.variadic && prototype.returns === 0) continue;
    return prototype;
  }
  return undefined;
}

/** What the prototype of a FUNC of `btf` says. */
export function functionPrototype(btf: Btf, func: number): FunctionPrototype {
  const proto = btf.referred(func);
  const args = btf.paramTypes(proto);
  const variadic = args.length > 0 && args[args.length - 1] === 0;
  if (variadic) args.pop();
  return { nargs: args.length, btf, args, returns: btf.referred(proto), variadic };
}

/** Names a build of a file. */
function keyOf(elf: ElfFile): string {
  if (elf.buildId !== undefined && elf.buildId.length >= 8) return elf.buildId;
  let stamp = '';
  try {
    const { size, mtimeMs, ino, dev } = statSync(elf.path);
    stamp = `${size} ${mtimeMs} ${ino} ${dev}`;
  } catch {
    // It is gone: its path must do.
  }
  return createHash('sha256').update(`${elf.path} ${stamp}`).digest('hex');
}

function typesOf(elf: ElfFile, key: string, options: ModuleTypesOptions): Btf | undefined {
  const own = sectionTypes(elf);
  if (own) return own;
  const debug = findDebugFile(elf, options.root === undefined ? {} : { root: options.root });
  try {
    const beside = debug ? sectionTypes(debug) : undefined;
    if (beside) return beside;
    const source = [elf, debug].find(file => file?.section('.debug_info'));
    return source ? made(source, key, options) : undefined;
  } finally {
    debug?.close();
  }
}

/** What the linker or `pahole -J` left in the file. */
function sectionTypes(elf: ElfFile): Btf | undefined {
  const section = elf.section('.BTF');
  if (!section) return undefined;
  try {
    const bytes = elf.sectionBytes(section);
    // The file may be replaced while it is traced: what was checked must stay as it is.
    return bytes.length === 0 ? undefined : parsed(Uint8Array.from(bytes), elf.path);
  } catch (error) {
    if (error instanceof BpfError) return undefined;
    throw error;
  }
}

function parsed(bytes: Uint8Array, path: string): Btf {
  return Btf.parse(bytes, { name: `the BTF of ${path}`, relaxed: true });
}

/** Types that pahole makes, or has made before. */
function made(source: ElfFile, key: string, options: ModuleTypesOptions): Btf | undefined {
  const cache = new TypeCache(options.cacheDirectory);
  const kept = cache.get(key);
  if (kept === null) return undefined;
  if (kept) {
    const types = usable(kept, source.path);
    if (types) return types;
    cache.drop(key);
  }
  const bytes = runPahole(source.path, options);
  // Without pahole nothing was learnt about the file.
  if (bytes === undefined) return undefined;
  const types = bytes ? usable(bytes, source.path) : undefined;
  cache.put(key, types ? bytes : null);
  return types;
}

function usable(bytes: Uint8Array, path: string): Btf | undefined {
  try {
    return parsed(bytes, path);
  } catch (error) {
    if (error instanceof BpfError) return undefined;
    throw error;
  }
}

/** BTF of the debug information in a file; `null` where pahole can't make it, `undefined` where there is no pahole. */
function runPahole(path: string, options: ModuleTypesOptions): Uint8Array | null | undefined {
  let directory: string;
  try {
    directory = mkdtempSync(join(tmpdir(), 'multitrace-types-'));
  } catch {
    return undefined;
  }
  const output = join(directory, 'types.btf');
  try {
    const { error, status } = spawnSync(
      options.pahole ?? 'pahole',
      [
        '--btf_encode_force',
        '--btf_gen_all',
        '--skip_encoding_btf_vars',
        `--btf_encode_detached=${output}`,
        path,
      ],
      { stdio: 'ignore', timeout: options.timeoutMs ?? TIME_LIMIT_MS, killSignal: 'SIGKILL' },
    );
    if ((error as NodeJS.ErrnoException | undefined)?.code === 'ENOENT') return undefined;
    return status === 0 && existsSync(output) ? Uint8Array.from(readFileSync(output)) : null;
  } catch {
    return null;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
