import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { crc32, findDebugFile } from './debug_file.js';
import { ElfFile } from './file.js';

const root = mkdtempSync(join(tmpdir(), 'debug-file-'));
afterAll(() => rmSync(root, { recursive: true }));

describe('CRC-32', () => {
  it('gives the check value of the standard, in one part or several', () => {
    expect(crc32(Buffer.from('123456789'))).toBe(0xcbf43926);
    expect(crc32(Buffer.from('56789'), crc32(Buffer.from('1234')))).toBe(0xcbf43926);
  });
});

const LIBC = '/usr/lib/x86_64-linux-gnu/libc.so.6';
const libcId = existsSync(LIBC) ? ElfFile.open(LIBC).buildId! : '';
const libcDebug = `/usr/lib/debug/.build-id/${libcId.slice(0, 2)}/${libcId.slice(2)}.debug`;

it.skipIf(!existsSync(libcDebug))('finds the installed debug file of libc', () => {
  const found = findDebugFile(ElfFile.open(LIBC));
  expect(found?.path).toBe(libcDebug);
  expect(found?.isDebugFile).toBe(true);
  expect(found?.executableSections()).toEqual([]);
  expect(found?.symbols(new Set(['FUNC'])).length).toBeGreaterThan(3000);
});

const toolsMissing = ['gcc', 'objcopy', 'strip'].some(tool => spawnSync(tool, ['--version']).error);

describe.skipIf(toolsMissing)('a program with a separate debug file', () => {
  const bin = join(root, 'opt/app');
  const program = join(bin, 'program');
  const debug = join(bin, 'program.debug');
  const saved = join(root, 'saved.debug');
  const byLink = join(root, 'usr/lib/debug', 'opt/app');
  let buildId = '';

  const build = (name: string, ...flags: string[]) => {
    const source = join(root, 'source.c');
    writeFileSync(
      source,
      'static int __attribute__((noinline)) hidden(int a) { return a * 3; }\nint main(int n) { return hidden(n); }\n',
    );
    execFileSync('gcc', ['-O1', ...flags, '-o', name, source]);
    execFileSync('objcopy', ['--only-keep-debug', name, debug]);
    execFileSync('strip', [name]);
    execFileSync('objcopy', [`--add-gnu-debuglink=${debug}`, name]);
    copyFileSync(debug, saved);
    rmSync(debug);
  };
  const search = () => findDebugFile(ElfFile.open(program), { root })?.path;

  beforeAll(() => {
    mkdirSync(bin, { recursive: true });
    mkdirSync(byLink, { recursive: true });
    mkdirSync(join(bin, '.debug'));
    build(program, '-Wl,--build-id=sha1');
    buildId = ElfFile.open(program).buildId!;
    mkdirSync(join(root, 'usr/lib/debug/.build-id', buildId.slice(0, 2)), { recursive: true });
  });
  const places = () => [
    join(root, 'usr/lib/debug/.build-id', buildId.slice(0, 2), `${buildId.slice(2)}.debug`),
    debug,
    join(bin, '.debug/program.debug'),
    join(byLink, 'program.debug'),
  ];
  beforeEach(() => {
    for (const place of places()) rmSync(place, { force: true });
  });

  it('is found in each of the four places, and its symbols are there', () => {
    expect(search()).toBeUndefined();
    for (const place of places()) {
      copyFileSync(saved, place);
      expect(search()).toBe(place);
      rmSync(place);
    }
    const names = ElfFile.open(saved)
      .symbols(new Set(['FUNC']))
      .map(({ name }) => name);
    expect(names).toContain('hidden');
  });

  it('is refused when its contents do not have the CRC of the link', () => {
    const bytes = readFileSync(saved);
    bytes[bytes.length - 1] ^= 1;
    writeFileSync(debug, bytes);
    expect(search()).toBeUndefined();
  });

  it('is refused when it is of another build, and passed over for one that fits', () => {
    const other = readFileSync(saved);
    const at = other.indexOf(Buffer.from(buildId, 'hex'));
    other[at] ^= 1;
    writeFileSync(places()[0], other);
    expect(search()).toBeUndefined();
    copyFileSync(saved, places()[2]);
    expect(search()).toBe(places()[2]);
  });

  it('is as good as none when it is damaged or not an ELF file', () => {
    for (const content of ['', 'rubbish', readFileSync(saved).subarray(0, 200)]) {
      writeFileSync(places()[0], content);
      expect(search()).toBeUndefined();
    }
  });

  it('is found by its CRC alone when there is no build-id', () => {
    build(program, '-Wl,--build-id=none');
    expect(ElfFile.open(program).buildId).toBeUndefined();
    expect(search()).toBeUndefined();
    copyFileSync(saved, debug);
    expect(search()).toBe(debug);
  });
});
