import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ElfFile } from '../../elf/file.js';
import { callLayout } from './call_layout.js';
import { moduleTypes, prototypeOf } from './prototypes.js';

const folder = mkdtempSync(join(tmpdir(), 'prototypes-'));
const cacheDirectory = join(folder, 'cache');
afterAll(() => rmSync(folder, { recursive: true }));

const SOURCE = `
struct point { int x, y; };
struct big { long v[5]; };
struct mix { double d; long l; };
enum color { RED, GREEN = 5 };
typedef struct { struct point a; const char *name; unsigned flags : 3; enum color c; } thing_t;
int add(thing_t *t, int n) { return t->a.x + n; }
double scale(double f, int n, struct point p, struct mix m) { return f * n + p.x + m.d; }
struct big make(int a) { struct big b = { { a } }; return b; }
long many(int a, int b, int c, int d, int e, int f, int g, char h) { return a+b+c+d+e+f+g+h; }
long pair(int a, int b, int c, int d, int e, __int128 wide, int g) { return a+b+c+d+e+wide+g; }
int vf(const char *fmt, ...) { return fmt[0]; }
void nothing(void) {}
static __attribute__((noinline)) int hidden(int *q) { return *q * 3; }
int user(int z) { return hidden(&z); }
`;

const missing = ['gcc', 'pahole', 'objcopy', 'strip'].filter(
  tool => spawnSync(tool, ['--version']).error !== undefined,
);

function build(name: string, ...flags: string[]): string {
  const source = join(folder, 'lib.c');
  const path = join(folder, name);
  writeFileSync(source, SOURCE);
  execFileSync('gcc', ['-g', '-O1', '-fPIC', '-shared', ...flags, '-o', path, source]);
  return path;
}

const names = (path: string, functionName: string) => {
  const btf = moduleTypes(path, { cacheDirectory });
  const proto = btf && prototypeOf(btf, functionName);
  return (
    proto && { ...proto, args: proto.args?.map(id => (id === 0 ? '-' : btf.typeName(id))), btf: undefined }
  );
};

describe.skipIf(missing.length > 0)('a library with debug information', () => {
  let path = '';
  beforeAll(() => {
    path = build('lib.so', '-Wl,--build-id=sha1');
  });

  it('gives its functions their prototypes', () => {
    expect(names(path, 'add')).toMatchObject({ nargs: 2, args: ['thing_t *', 'int'], variadic: false });
    expect(names(path, 'hidden')?.args).toEqual(['int *']);
    // `void (void)` is what there is of functions in assembler, too.
    expect(names(path, 'nothing')).toBeUndefined();
    expect(names(path, 'vf')).toMatchObject({ args: ['const char *'], variadic: true });
    expect(names(path, 'absent')).toBeUndefined();
  });

  it('says where the words of arguments and result are', () => {
    const layout = (name: string) => {
      const { words, args, result } = callLayout(prototypeOf(moduleTypes(path, { cacheDirectory })!, name));
      const spelled = words.map(w =>
        w.in === 'stack' ? `stack+${w.offset}` : w.in === 'nothing' ? '-' : `${w.in} ${w.index}`,
      );
      return { words: spelled, args: args.map(a => a && [a.first, a.count]), result };
    };
    const registers = [0, 1, 2, 3, 4, 5].map(i => `register ${i}`);
    expect(layout('scale')).toEqual({
      words: ['vector 0', 'register 0', 'register 1', 'vector 1', 'register 2'],
      args: [
        [0, 1],
        [1, 1],
        [2, 1],
        [3, 2],
      ],
      result: ['xmm0'],
    });
    // The address of the result comes first.
    expect(layout('make')).toMatchObject({ words: ['register 1'], result: ['rax'] });
    expect(layout('many').words).toEqual([...registers, 'stack+8', 'stack+16']);
    // Two registers are not left for the wide one; the last register is for the next parameter.
    expect(layout('pair').words).toEqual([...registers.slice(0, 5), 'stack+8', 'stack+16', 'register 5']);
    expect(layout('vf').words).toEqual(['register 0']);
  });

  it('finds a function by any of its names', () => {
    const btf = moduleTypes(path, { cacheDirectory })!;
    expect(prototypeOf(btf, ['alias', 'add'])?.nargs).toBe(2);
  });

  it('keeps what pahole made by build-id', () => {
    expect(readdirSync(cacheDirectory)).toContain(`${ElfFile.open(path).buildId}.btf`);
  });
});

describe.skipIf(missing.length > 0)('where the types come from', () => {
  it('reads a .BTF section without pahole', () => {
    const path = build('own.so', '-Wl,--build-id=0x1111111111111111');
    execFileSync('pahole', ['-J', path]);
    execFileSync('strip', ['--strip-debug', path]);
    const btf = moduleTypes(path, { cacheDirectory, pahole: '/nonexistent/pahole' });
    expect(prototypeOf(btf!, 'add')?.nargs).toBe(2);
  });

  it('uses the debug file beside it', () => {
    const path = build('stripped.so', '-Wl,--build-id=0x2222222222222222');
    execFileSync('objcopy', ['--only-keep-debug', path, `${path}.debug`]);
    execFileSync('strip', [path]);
    execFileSync('objcopy', [`--add-gnu-debuglink=${path}.debug`, path]);
    expect(prototypeOf(moduleTypes(path, { cacheDirectory })!, 'hidden')?.nargs).toBe(1);
  });

  it('has none without debug information, for a damaged file, or where pahole fails or is not there', () => {
    const plain = build('plain.so', '-g0', '-Wl,--build-id=0x3333333333333333');
    expect(moduleTypes(plain, { cacheDirectory })).toBeUndefined();
    const path = build('fails.so', '-Wl,--build-id=0x4444444444444444');
    expect(moduleTypes(path, { cacheDirectory, pahole: '/bin/false' })).toBeUndefined();
    const other = build('other.so', '-Wl,--build-id=0x5555555555555555');
    expect(moduleTypes(other, { cacheDirectory, pahole: '/nonexistent/pahole' })).toBeUndefined();
    writeFileSync(join(folder, 'damaged.so'), 'no ELF file');
    expect(moduleTypes(join(folder, 'damaged.so'), { cacheDirectory })).toBeUndefined();
    expect(moduleTypes(join(folder, 'absent.so'), { cacheDirectory })).toBeUndefined();
  });

  it('does not wait for a pahole that hangs', () => {
    const path = build('hangs.so', '-Wl,--build-id=0x6666666666666666');
    const script = join(folder, 'hang');
    writeFileSync(script, '#!/bin/sh\nexec sleep 60\n', { mode: 0o755 });
    const start = Date.now();
    expect(moduleTypes(path, { cacheDirectory, pahole: script, timeoutMs: 200 })).toBeUndefined();
    expect(Date.now() - start).toBeLessThan(5000);
  });
});

const LIBC = '/usr/lib/x86_64-linux-gnu/libc.so.6';
const libcId = existsSync(LIBC) ? ElfFile.open(LIBC).buildId! : '';
const libcDebug = `/usr/lib/debug/.build-id/${libcId.slice(0, 2)}/${libcId.slice(2)}.debug`;

it.skipIf(missing.length > 0 || !existsSync(libcDebug))("reads libc's types", () => {
  const btf = moduleTypes(LIBC, { cacheDirectory })!;
  const proto = prototypeOf(btf, ['malloc', '__libc_malloc'])!;
  expect(proto.nargs).toBe(1);
  expect(btf.typeName(proto.args![0])).toBe('size_t');
  expect(btf.typeName(proto.returns!)).toBe('void *');
});
