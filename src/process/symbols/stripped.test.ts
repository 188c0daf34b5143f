import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ElfFile } from '../../elf/file.js';
import { functionsOf } from './functions.js';

const SOURCE = `
#include <stdio.h>
#include <stdlib.h>
__attribute__((noinline)) static int called(int a) { if (a > 100) { puts("cold"); abort(); } return a * 3; }
static int pointed(int a) { return a + 7; }
int (*table[])(int) = { pointed };
int main(int argc, char **argv) { return called(argc) + table[argc - 1](argc); }
`;

test('a stripped program has the functions that are called or pointed to, and no others', () => {
  const folder = mkdtempSync(join(tmpdir(), 'multitrace-stripped-'));
  try {
    const source = join(folder, 'a.c');
    const program = join(folder, 'a');
    writeFileSync(source, SOURCE);
    execFileSync('gcc', ['-O2', '-pie', '-fPIE', '-o', program, source]);
    const named = functionsOf(ElfFile.open(program));
    const addressOf = (name: string): number => named.find(f => f.aliases.includes(name))!.address;
    const known = { called: addressOf('called'), pointed: addressOf('pointed') };
    execFileSync('strip', [program]);
    const found = functionsOf(ElfFile.open(program));
    const addresses = found.map(f => f.address);
    expect(addresses).toContain(known.called);
    expect(addresses).toContain(known.pointed);
    // Nothing that was not a function before: no cold part, no stub.
    for (const address of addresses) expect(named.map(f => f.address)).toContain(address);
    expect(found[0].name).toBe(`sub_${found[0].address.toString(16)}`);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('openssl, which Debian strips, has hundreds of functions', () => {
  expect(functionsOf(ElfFile.open('/usr/bin/openssl')).length).toBeGreaterThan(300);
});
