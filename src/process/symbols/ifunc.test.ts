import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ElfFile } from '../../elf/file.js';
import { PF_W } from '../../elf/format.js';
import { functionsOf } from './functions.js';
import { ifuncSlots, symbolSlots } from './ifunc.js';

const LIBC = '/usr/lib/x86_64-linux-gnu/libc.so.6';

describe.skipIf(!existsSync(LIBC))('IFUNC slots of libc', () => {
  it('lead from resolvers that are IFUNC functions to writable words', () => {
    const elf = ElfFile.open(LIBC);
    const slots = ifuncSlots(elf);
    const resolvers = new Set(
      functionsOf(elf)
        .filter(({ ifunc }) => ifunc)
        .map(({ address }) => address),
    );
    expect(slots.size).toBeGreaterThan(20);
    const known = [...slots.keys()].filter(address => resolvers.has(address));
    expect(known.length).toBeGreaterThan(20);
    for (const slot of slots.values()) {
      const home = elf.segments.find(({ vaddr, memsz }) => slot >= vaddr && slot + 8 <= vaddr + memsz);
      expect(home && home.flags & PF_W).toBeTruthy();
    }
  });
});

describe.skipIf(spawnSync('gcc', ['--version']).error || spawnSync('readelf', ['--version']).error)(
  'slots of a compiled program',
  () => {
    const folder = mkdtempSync(join(tmpdir(), 'ifunc-'));
    afterAll(() => rmSync(folder, { recursive: true }));
    const source = join(folder, 'program.c');
    beforeAll(() =>
      writeFileSync(
        source,
        `#include <stdlib.h>
#include <stdio.h>
static int impl(void) { return 7; }
static int (*resolve(void))(void) { return impl; }
static int chosen(void) __attribute__((ifunc("resolve")));
extern char **environ;
void *both = free;
int main(int n, char **v) { free(v[n]); return chosen() + puts("x") + (environ != 0); }
`,
      ),
    );
    const build = (name: string, ...flags: string[]): string => {
      execFileSync('gcc', ['-O1', ...flags, '-o', join(folder, name), source]);
      return join(folder, name);
    };
    const relocations = (path: string): string[][] => {
      const text = execFileSync('readelf', ['-rW', path], { encoding: 'utf8' });
      return [...text.matchAll(/^([0-9a-f]{16}) +\S+ R_X86_64_(\w+) +(\S+)(?: (\S+))?/gm)].map(m =>
        [...m].slice(1),
      );
    };

    it.each([
      ['pie', ['-pie']],
      ['no-pie', ['-no-pie']],
      ['static', ['-static']],
      ['static-pie', ['-static-pie']],
      ['bind-now', ['-Wl,-z,now']],
    ])('%s: the slot of each resolver', (name, flags) => {
      const path = build(name, ...flags);
      const elf = ElfFile.open(path);
      const chosen = functionsOf(elf).find(({ aliases }) => aliases.includes('chosen'))!;
      const slots = ifuncSlots(elf);
      const expected = relocations(path).filter(([, type]) => type === 'IRELATIVE');
      expect(chosen.ifunc).toBe(true);
      expect(slots.get(chosen.address)).toBeGreaterThan(0);
      expect([...slots.values()].map(slot => slot.toString(16).padStart(16, '0')).sort()).toEqual(
        expected.map(([offset]) => offset).sort(),
      );
    });

    it('finds the slots of imported functions, those filled in at start first', () => {
      const path = build('imports', '-pie', '-Wl,-z,lazy');
      const slots = symbolSlots(ElfFile.open(path));
      const lines = relocations(path);
      const offsets = (symbol: string, type: string) =>
        lines
          .filter(([, t, , s]) => t === type && s?.split('@')[0] === symbol)
          .map(([offset]) => parseInt(offset, 16));
      expect(offsets('puts', 'JUMP_SLOT')).toContain(slots.get('puts'));
      expect(offsets('__libc_start_main', 'GLOB_DAT')).toContain(slots.get('__libc_start_main'));
      expect(offsets('free', 'JUMP_SLOT')).toHaveLength(1);
      expect(offsets('free', '64')).toContain(slots.get('free'));
    });
  },
);
