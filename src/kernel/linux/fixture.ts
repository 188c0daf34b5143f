/** For tests: a small kernel as files: its types, its symbols, and what its ftrace can trace. */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Btf } from '../../btf/btf.js';
import { BtfBuilder } from '../../btf/builder.js';

export class KernelFiles {
  readonly root = mkdtempSync(join(tmpdir(), 'kernel-'));

  write(path: string, content: string | Uint8Array): this {
    const file = join(this.root, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
    return this;
  }

  remove(): void {
    rmSync(this.root, { recursive: true });
  }
}

/** `name: [result, ...parameters]`, each a name of TYPES; `...` for a variable number. */
type Prototypes = Readonly<Record<string, readonly string[] | readonly (readonly string[])[]>>;

/** BTF of functions; of a module, where there is a base. A name with several prototypes is there several times. */
export function typesOf(functions: Prototypes, base?: Btf): Uint8Array {
  const b = new BtfBuilder(base === undefined ? {} : { base });
  const int = b.addInt('int', 4, { signed: true });
  const wide = b.addInt('long unsigned int', 8);
  const ids: Record<string, number> = {
    void: 0,
    '...': 0,
    int,
    wide,
    pointer: b.addPtr(0),
    small: b.addStruct('small', 8, [{ name: 'a', type: wide, bitOffset: 0, bitSize: 0 }]),
    pair: b.addStruct('pair', 16, [
      { name: 'a', type: wide, bitOffset: 0, bitSize: 0 },
      { name: 'b', type: wide, bitOffset: 64, bitSize: 0 },
    ]),
    large: b.addStruct('large', 24, [
      { name: 'a', type: b.addArray(wide, 3, int), bitOffset: 0, bitSize: 0 },
    ]),
  };
  // A name for the structure: typedefs and qualifiers do not hide it.
  ids.small_t = b.addConst(b.addTypedef('small_t', ids.small));
  for (const [name, list] of Object.entries(functions)) {
    const prototypes = (typeof list[0] === 'string' ? [list] : list) as readonly (readonly string[])[];
    for (const [version, [result, ...params]] of prototypes.entries()) {
      const types = params.map((type, index) => ({
        name: type === '...' ? '' : `p${version}_${index}`,
        type: ids[type],
      }));
      b.addFunc(name, b.addFuncProto(ids[result], types));
    }
  }
  return b.build();
}

const ADDRESS = 0xffffffff81000000n;

/** Lines of /proc/kallsyms, 16 bytes of code apart; `=` in front of a name puts it at the address of the one before. */
export function kallsyms(names: readonly string[], hidden = false): string {
  let address = ADDRESS;
  let text = '';
  for (const entry of names) {
    const [name, module] = entry.replace(/^=/, '').split(' ');
    if (!entry.startsWith('=')) address += 16n;
    const shown = hidden ? 0n : address;
    text += `${shown.toString(16).padStart(16, '0')} ${name.startsWith('data_') ? 'd' : 't'} ${name}`;
    text += module === undefined ? '\n' : `\t[${module}]\n`;
  }
  return text;
}
