/**
 * Maps and links that are pinned by name. Objects that are loaded into one process share a map of one name; its contents are
 * kept in a file of the run directory when the session ends, and put into the next session's map. A map lives in the
 * memory of the process that it was made for: two sessions at the same time do not share it, and of what they leave
 * the later one stays. A pinned link stays attached when the object that made it goes, until it is unpinned, or the
 * session ends.
 */

import { lstatSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MAP_TYPE, mapTypeName } from '../bpf/map_type.js';
import { BpfError } from '../kernel/errno.js';
import type { BpfLink, BpfMap, Kernel } from '../kernel/kernel.js';
import { canBeKept, type MapSnapshot, restoreSnapshot, takeSnapshot } from './snapshot.js';

/** What a file of the directory begins with. */
const FORMAT = 'multitrace-map-1';
/** More than this is no pin of ours. */
const MAX_FILE = 256 << 20;

/** `$XDG_RUNTIME_DIR/multitrace-pins`, or a folder of the user's own in /tmp. */
export function defaultPinDirectory(): string {
  const run = process.env.XDG_RUNTIME_DIR;
  return run ? join(run, 'multitrace-pins') : `/tmp/multitrace-pins-${process.getuid?.() ?? 0}`;
}

export class Pins {
  readonly directory: string;
  readonly #live = new Map<string, { readonly kernel: Kernel; readonly map: BpfMap }>();
  readonly #kept = new Map<string, MapSnapshot>();
  readonly #links = new Map<string, { readonly kernel: Kernel; readonly link: BpfLink }>();

  constructor(directory = defaultPinDirectory()) {
    this.directory = directory;
  }

  /** The map of this name in this machine, if an object brought it. */
  find(kernel: Kernel, name: string): BpfMap | undefined {
    const live = this.#live.get(name);
    return live?.kernel === kernel ? live.map : undefined;
  }

  /** Pins a new map and puts into it what was kept under its name. Throws EINVAL where that has another shape. */
  add(kernel: Kernel, name: string, map: BpfMap): void {
    checkName(name);
    if (!canBeKept(map.type) && map.type !== MAP_TYPE.RINGBUF)
      throw new BpfError(
        'EOPNOTSUPP',
        `map ${name} can't be pinned: what is in a ${mapTypeName(map.type)} means nothing in another process`,
      );
    const kept = this.#kept.get(name) ?? this.#read(name);
    if (kept !== undefined) restoreSnapshot(map, kept);
    this.#live.set(name, { kernel, map });
  }

  /** Pins a link. Throws EEXIST where another has the name. */
  addLink(kernel: Kernel, name: string, link: BpfLink): void {
    checkName(name);
    const other = this.findLink(kernel, name);
    if (other !== undefined && other !== link)
      throw new BpfError('EEXIST', `a link is pinned as ${name} already; unpin it, or use another name`);
    this.#links.set(name, { kernel, link });
  }

  /** The link of this name in this machine. */
  findLink(kernel: Kernel, name: string): BpfLink | undefined {
    const pinned = this.#links.get(name);
    return pinned?.kernel === kernel ? pinned.link : undefined;
  }

  /** Lets go of a link, which stays attached until who has it detaches it; `undefined` where there is none. */
  removeLink(kernel: Kernel, name: string): BpfLink | undefined {
    const link = this.findLink(kernel, name);
    if (link !== undefined) this.#links.delete(name);
    return link;
  }

  holdsLink(link: BpfLink): boolean {
    for (const pinned of this.#links.values()) if (pinned.link === link) return true;
    return false;
  }

  /** Keeps the contents of the machine's maps, for the next machine of this session. Call it before they are freed. */
  keep(kernel: Kernel): void {
    for (const [name, pinned] of this.#links) if (pinned.kernel === kernel) this.#links.delete(name);
    for (const [name, live] of this.#live) {
      if (live.kernel !== kernel) continue;
      this.#live.delete(name);
      if (canBeKept(live.map.type)) this.#kept.set(name, takeSnapshot(live.map));
    }
  }

  /** Writes everything that was kept to the run directory; the files. */
  save(): string[] {
    if (this.#kept.size === 0) return [];
    this.#openDirectory();
    const paths: string[] = [];
    for (const [name, { type, keySize, valueSize, entries }] of this.#kept) {
      const path = join(this.directory, name);
      const unfinished = `${path}.${process.pid}`;
      const lines = entries.map(([key, value]) => `${hexOf(key)} ${hexOf(value)}\n`);
      writeFileSync(unfinished, `${FORMAT} ${type} ${keySize} ${valueSize}\n${lines.join('')}`, {
        mode: 0o600,
      });
      renameSync(unfinished, path);
      paths.push(path);
    }
    return paths;
  }

  /** Forgets what was kept under a name. */
  remove(name: string): void {
    checkName(name);
    this.#kept.delete(name);
    rmSync(join(this.directory, name), { force: true });
  }

  #openDirectory(): void {
    try {
      mkdirSync(this.directory, { recursive: true, mode: 0o700 });
    } catch (cause) {
      throw new BpfError('EACCES', `the pin directory ${this.directory} can't be made; give another`, {
        cause,
      });
    }
    this.#checkOwner();
  }

  /** Others must not be able to put values into our maps. */
  #checkOwner(): void {
    const { uid, mode } = lstatSync(this.directory);
    if (uid !== process.getuid?.() || mode & 0o022)
      throw new BpfError(
        'EPERM',
        `the pin directory ${this.directory} belongs to somebody else, or others can write to it`,
      );
  }

  #read(name: string): MapSnapshot | undefined {
    const path = join(this.directory, name);
    let text: string;
    try {
      const { size } = lstatSync(path);
      this.#checkOwner();
      if (size > MAX_FILE) throw damagedPin(path);
      text = readFileSync(path, 'latin1');
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      if (cause instanceof BpfError) throw cause;
      throw new BpfError('EACCES', `the pin ${path} can't be read`, { cause });
    }
    const lines = text.split('\n');
    const header = /^(\S+) (\d+) (\d+) (\d+)$/.exec(lines[0]);
    if (header === null || header[1] !== FORMAT || lines.at(-1) !== '') throw damagedPin(path);
    const [type, keySize, valueSize] = header.slice(2).map(Number);
    const entries = lines.slice(1, -1).map((line): [Uint8Array, Uint8Array] => {
      const match = /^((?:[0-9a-f]{2})*) ((?:[0-9a-f]{2})*)$/.exec(line);
      if (match === null || match[1].length !== keySize * 2) throw damagedPin(path);
      return [Uint8Array.from(Buffer.from(match[1], 'hex')), Uint8Array.from(Buffer.from(match[2], 'hex'))];
    });
    const valueBytes = entries[0]?.[1].length ?? valueSize;
    if (valueBytes < valueSize || entries.some(([, value]) => value.length !== valueBytes))
      throw damagedPin(path);
    return { type, keySize, valueSize, entries };
  }
}

function damagedPin(path: string): BpfError {
  return new BpfError('EINVAL', `${path} is no pinned map of multitrace, or damaged; remove it`);
}

function checkName(name: string): void {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(name))
    throw new BpfError('EINVAL', `"${name}" can't be the name of a pin; use letters, digits and _`);
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}
