import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cpuMs } from '../../tests/support/cpu_time.js';
import { BpfError } from '../kernel/errno.js';
import { ElfFile } from './file.js';
import { DT_RELASZ, PF_X, PT_LOAD, R_X86_64_RELATIVE } from './format.js';

const LIBRARIES = '/usr/lib/x86_64-linux-gnu';
/** What Debian installs; each is read where it exists. */
const REAL_FILES = [
  join(LIBRARIES, 'libc.so.6'),
  join(LIBRARIES, 'libcrypto.so.3'),
  join(LIBRARIES, 'libstdc++.so.6'),
  join(LIBRARIES, 'ld-linux-x86-64.so.2'),
  '/usr/bin/python3',
  '/usr/bin/openssl',
  '/bin/bash',
].filter(path => existsSync(path));

const folder = mkdtempSync(join(tmpdir(), 'elf-file-'));
afterAll(() => rmSync(folder, { recursive: true }));

function installed(command: string): boolean {
  return spawnSync(command, ['--version']).error === undefined;
}

function readelf(path: string, ...flags: string[]): string {
  return spawnSync('readelf', [...flags, path], { encoding: 'utf8', maxBuffer: 2 ** 30 }).stdout;
}

function matches(text: string, pattern: RegExp): string[][] {
  return [...text.matchAll(pattern)].map(match => [...match]);
}

function failureOf(action: () => unknown): BpfError {
  try {
    action();
  } catch (error) {
    if (error instanceof BpfError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

describe.skipIf(!installed('readelf'))('what readelf says of real files', () => {
  it('has files to read', () => expect(REAL_FILES.length).toBeGreaterThan(2));

  it.each(REAL_FILES)('%s: every symbol', path => {
    const lines = matches(
      readelf(path, '-sW'),
      /^ +\d+: ([0-9a-f]+) +(0x[0-9a-f]+|\d+) (\w+) +(\w+) +\w+ +(?:\[.*\] +)?(\w+)(?: (.*))?$/gm,
    );
    const expected = lines
      .filter(([, , , type, bind, index]) => !(type === 'NOTYPE' && bind === 'LOCAL' && index === 'UND'))
      .map(
        ([, value, size, type, , , name]) =>
          `${value} ${Number(size)} ${type} ${(name ?? '').split('@')[0].trim()}`,
      );
    const symbols = ElfFile.open(path).symbols();
    const got = symbols.map(
      ({ value, size, type, name }) => `${value.toString(16).padStart(16, '0')} ${size} ${type} ${name}`,
    );
    expect(got.length).toBeGreaterThan(20);
    expect(got.filter(line => !line.includes(' SECTION '))).toEqual(
      expected.filter(line => !line.includes(' SECTION ')),
    );
  });

  it.each(REAL_FILES)('%s: every relocation, those of DT_RELR too', path => {
    const text = readelf(path, '-rW');
    const expected = matches(text, /^([0-9a-f]{16}) +([0-9a-f]{16}) R_X86_64_\w+/gm).map(
      ([, offset, info]) => `${parseInt(offset, 16)} ${parseInt(info.slice(8), 16)}`,
    );
    const packed = text.split("section '.relr.dyn'")[1]?.split('Relocation section')[0] ?? '';
    for (const [, offset] of matches(packed, /^([0-9a-f]{16})\s*$/gm))
      expected.push(`${parseInt(offset, 16)} ${R_X86_64_RELATIVE}`);
    const got = [...ElfFile.open(path).relocations()].map(({ offset, type }) => `${offset} ${type}`);
    expect(got.length).toBeGreaterThan(10);
    expect(got.sort()).toEqual(expected.sort());
  });

  it.each(REAL_FILES)('%s: headers, sections, segments, build-id, dynamic table', path => {
    const elf = ElfFile.open(path);
    const text = readelf(path, '-hlSdnW');
    const one = (pattern: RegExp) => pattern.exec(text)?.[1];
    expect(elf.type).toBe(one(/Type: +(\w+)/));
    expect(elf.entry).toBe(Number(one(/Entry point address: +(0x[0-9a-f]+)/)));
    expect(elf.interpreter).toBe(one(/program interpreter: (.*)\]/));
    expect(elf.buildId).toBe(one(/Build ID: ([0-9a-f]+)/));
    expect(elf.soname).toBe(one(/soname: \[(.*)\]/));
    expect(elf.needed).toEqual(matches(text, /\(NEEDED\).*\[(.*)\]/g).map(match => match[1]));
    expect(elf.hasTextRelocations).toBe(/TEXTREL/.test(text));
    const loads = matches(text, /^ +LOAD +(0x\w+) (0x\w+) 0x\w+ (0x\w+) (0x\w+) (.{3}) /gm);
    expect(elf.segments.map(({ offset, vaddr, filesz, memsz }) => [offset, vaddr, filesz, memsz])).toEqual(
      loads.map(([, ...numbers]) => numbers.slice(0, 4).map(Number)),
    );
    expect(elf.segments.map(({ flags }) => (flags & PF_X) !== 0)).toEqual(
      loads.map(load => load[5].includes('E')),
    );
    const sections = matches(text, /^ +\[ *\d+\] (\S+) +\S+ +([0-9a-f]{16}) ([0-9a-f]+) ([0-9a-f]+) /gm);
    expect(
      elf.sections.slice(1).map(({ name, address, offset, size }) => [name, address, offset, size]),
    ).toEqual(
      sections
        .slice(-(elf.sections.length - 1))
        .map(([, name, ...numbers]) => [name, ...numbers.map(n => parseInt(n, 16))]),
    );
  });
});

describe('reading lazily', () => {
  it('opens a program of 90 MB without reading it, and all its symbols in well under a second', () => {
    const before = process.memoryUsage().rss;
    const start = process.cpuUsage();
    const elf = ElfFile.open(process.execPath);
    const opened = cpuMs(start);
    expect(elf.size).toBeGreaterThan(50e6);
    expect(process.memoryUsage().rss - before).toBeLessThan(20e6);
    expect(opened).toBeLessThan(200);
    const symbols = elf.symbols(new Set(['FUNC']));
    expect(symbols.length).toBeGreaterThan(10_000);
    expect(cpuMs(start)).toBeLessThan(2_000);
  });

  it('gives the bytes behind an address as the file has them', () => {
    const path = REAL_FILES[0];
    const file = readFileSync(path);
    const elf = ElfFile.open(path);
    for (const { vaddr, offset, filesz, memsz } of elf.segments) {
      for (const at of [0, 1, filesz >> 1, filesz - 16])
        expect(elf.bytesAt(vaddr + at, 16)?.equals(file.subarray(offset + at, offset + at + 16))).toBe(true);
      expect(elf.bytesAt(vaddr + filesz - 15, 16)).toBeUndefined();
      if (memsz > filesz) expect(elf.bytesAt(vaddr + filesz, 1)).toBeUndefined();
    }
    const whole = elf.executableSections().find(({ name }) => name === '.text')!;
    const header = elf.section('.text')!;
    expect(whole.address).toBe(header.address);
    expect(whole.bytes.equals(file.subarray(header.offset, header.offset + header.size))).toBe(true);
  });

  it('keeps what was read after close, and says that it is closed for the rest', () => {
    const elf = ElfFile.open(process.execPath);
    const { vaddr } = elf.segments[0];
    const first = elf.bytesAt(vaddr, 64)!;
    elf.close();
    expect(elf.bytesAt(vaddr, 64)!.equals(first)).toBe(true);
    expect(failureOf(() => elf.executableSections()).code).toBe('EBADF');
  });

  it('fails with EIO, not with a signal, when the file is cut short after it was opened', () => {
    const path = join(folder, 'shrinking');
    copyFileSync(process.execPath, path);
    const elf = ElfFile.open(path);
    writeFileSync(path, readFileSync(path).subarray(0, 4096));
    const failure = failureOf(() => elf.executableSections());
    expect(failure.code).toBe('EIO');
    expect(failure.message).toContain('got shorter');
  });
});

describe.skipIf(!installed('gcc'))('kinds of programs', () => {
  const source = join(folder, 'program.c');
  const build = (name: string, ...flags: string[]): string => {
    const path = join(folder, name);
    execFileSync(flags[0] === 'musl' ? 'musl-gcc' : 'gcc', [
      '-O1',
      '-o',
      path,
      source,
      ...flags.filter(f => f !== 'musl'),
    ]);
    return path;
  };
  beforeAll(() =>
    writeFileSync(
      source,
      '#include <stdio.h>\nint add(int a, int b) { return a + b; }\nint main(int n, char **v) { printf("%d\\n", add(n, 2)); return 0; }\n',
    ),
  );

  it('tells PIE, non-PIE, static and static-PIE apart', () => {
    const kind = (path: string) => {
      const elf = ElfFile.open(path);
      return [elf.type, elf.interpreter !== undefined, elf.needed.length > 0, elf.dynamic !== undefined];
    };
    expect(kind(build('pie', '-pie'))).toEqual(['DYN', true, true, true]);
    expect(kind(build('no-pie', '-no-pie'))).toEqual(['EXEC', true, true, true]);
    expect(kind(build('static', '-static'))).toEqual(['EXEC', false, false, false]);
    expect(kind(build('static-pie', '-static-pie'))).toEqual(['DYN', false, false, true]);
  });

  it.skipIf(!installed('musl-gcc'))('reads a static musl program', () => {
    const elf = ElfFile.open(build('musl', 'musl', '-static'));
    expect([elf.interpreter, elf.needed]).toEqual([undefined, []]);
    expect(elf.symbols(new Set(['FUNC'])).map(({ name }) => name)).toContain('add');
  });

  it('sees text relocations', () => {
    const assembly = join(folder, 'textrel.s');
    writeFileSync(
      assembly,
      '.text\n.globl f\n.type f,@function\nf: movabs $f, %rax\nret\n.section .note.GNU-stack,"",@progbits\n',
    );
    const path = join(folder, 'textrel.so');
    execFileSync('gcc', ['-shared', '-nostdlib', '-Wl,-z,notext', '-o', path, assembly], { stdio: 'ignore' });
    expect(ElfFile.open(path).hasTextRelocations).toBe(true);
    expect(ElfFile.open(build('no-textrel')).hasTextRelocations).toBe(false);
  });

  it('finds code and dynamic symbols without section headers', () => {
    const path = build('exports', '-rdynamic');
    const whole = ElfFile.open(path);
    const bytes = readFileSync(path);
    bytes.fill(0, 40, 48);
    bytes.fill(0, 58, 64);
    const bare = ElfFile.parse(bytes, 'bare');
    expect(bare.sections).toEqual([]);
    const dynamic = whole.symbols().filter(({ from }) => from === 'dynsym');
    expect(dynamic.map(({ name }) => name)).toContain('add');
    expect(bare.symbols()).toEqual(dynamic);
    expect(bare.buildId).toBe(whole.buildId);
    expect([...bare.relocations()]).toEqual([...whole.relocations()]);
    const { address, bytes: text } = whole.executableSections().find(({ name }) => name === '.text')!;
    const segment = bare
      .executableSections()
      .find(s => s.address <= address && address < s.address + s.bytes.length)!;
    expect(
      segment.bytes.subarray(address - segment.address, address - segment.address + text.length).equals(text),
    ).toBe(true);
  });

  it('counts relocations once where DT_RELA spans those of the PLT', () => {
    const path = build('spanned', '-Wl,-z,lazy');
    const elf = ElfFile.open(path);
    const [rela, plt] = [elf.section('.rela.dyn')!, elf.section('.rela.plt')!];
    expect(plt.offset).toBe(rela.offset + rela.size);
    const bytes = readFileSync(path);
    const { offset, size } = elf.section('.dynamic')!;
    for (let at = offset; at < offset + size; at += 16)
      if (bytes.readUInt32LE(at) === DT_RELASZ) bytes.writeUInt32LE(rela.size + plt.size, at + 8);
    expect([...ElfFile.parse(bytes, path).relocations()]).toEqual([...elf.relocations()]);
  });

  it('refuses a program for addresses that belong to the kernel', () => {
    const bytes = readFileSync(build('high'));
    const phdrs = Number(bytes.readBigUInt64LE(32));
    for (let at = phdrs; at < phdrs + bytes.readUInt16LE(56) * 56; at += 56)
      if (bytes.readUInt32LE(at) === PT_LOAD) bytes.writeBigUInt64LE(0xffffffff81000000n, at + 16);
    expect(failureOf(() => ElfFile.parse(bytes, 'vmlinux')).message).toContain('no Linux program has');
  });

  it('refuses a 32-bit program of this very processor', () => {
    const path = join(folder, 'i386.o');
    const assembly = join(folder, 'i386.s');
    writeFileSync(assembly, 'f: ret\n');
    execFileSync('gcc', ['-m32', '-c', '-o', path, assembly]);
    expect(failureOf(() => ElfFile.open(path)).message).toBe(
      `${path} is a 32-bit x86 program; multitrace traces x86-64 Linux programs only`,
    );
  });
});

describe('what is not an x86-64 program', () => {
  /** The start of an ELF header: class, byte order, machine. */
  const header = (elfClass: number, order: number, machine: number): Buffer => {
    const bytes = Buffer.alloc(64);
    bytes.write('\x7fELF', 'latin1');
    bytes[4] = elfClass;
    bytes[5] = order;
    if (order === 1) bytes.writeUInt16LE(machine, 18);
    else bytes.writeUInt16BE(machine, 18);
    return bytes;
  };

  it.each([
    [header(1, 1, 40), '/x is a 32-bit ARM program; multitrace traces x86-64 Linux programs only'],
    [header(2, 1, 183), '/x is a 64-bit ARM program; multitrace traces x86-64 Linux programs only'],
    [header(1, 1, 62), '/x is a 32-bit x86-64 program; multitrace traces x86-64 Linux programs only'],
    [
      header(2, 2, 21),
      '/x is a 64-bit big-endian PowerPC program; multitrace traces x86-64 Linux programs only',
    ],
    [header(2, 1, 243), '/x is a 64-bit RISC-V program; multitrace traces x86-64 Linux programs only'],
    [Buffer.from('#!/bin/sh\necho\n'), '/x is a script; give the program that runs it'],
    [Buffer.from('hello'), '/x is not an ELF file; give a program or a library of x86-64 Linux'],
    [Buffer.alloc(0), '/x is empty, so not a program'],
    [
      header(2, 1, 62).subarray(0, 40),
      '/x is a damaged ELF file: it ends in the middle of its header; install or build it again',
    ],
    [
      header(7, 1, 62),
      '/x is a damaged ELF file: its header says neither 32 nor 64 bits, or no byte order; install or build it again',
    ],
  ])('%# says what it is', (bytes, message) => {
    const failure = failureOf(() => ElfFile.parse(bytes, '/x'));
    expect([failure.code, failure.message]).toEqual(['ENOEXEC', message]);
  });

  it('reports missing files, directories and pipes', () => {
    expect(failureOf(() => ElfFile.open(join(folder, 'missing'))).code).toBe('ENOENT');
    expect(failureOf(() => ElfFile.open(folder)).code).toBe('EISDIR');
    expect(failureOf(() => ElfFile.open(join(realpathSync(process.execPath), 'x'))).code).toBe('ENOTDIR');
    execFileSync('mkfifo', [join(folder, 'pipe')]);
    expect(failureOf(() => ElfFile.open(join(folder, 'pipe'))).code).toBe('ENOEXEC');
    expect(failureOf(() => ElfFile.open('/dev/null')).code).toBe('ENOEXEC');
  });
});
