/** For tests: compiles C for BPF or for this machine, and takes sections out of the result. */

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Btf } from './btf.js';

export const CLANG = 'clang-19';
export const hasClang = spawnSync(CLANG, ['--version']).error === undefined;
export const hasGcc = spawnSync('gcc', ['--version']).error === undefined;
export const hasPahole = spawnSync('pahole', ['--version']).error === undefined;
const BPFTOOL = ['/usr/sbin/bpftool', '/usr/bin/bpftool'].find(path => existsSync(path));
export const hasBpftool = BPFTOOL !== undefined;

export const VMLINUX = '/sys/kernel/btf/vmlinux';
export const hasVmlinux = existsSync(VMLINUX);

/** What macros a CO-RE program is written with. */
export const CORE_HEADER = `
#define __pai __attribute__((preserve_access_index))
#define SEC(name) __attribute__((section(name), used))
#define FIELD_INFO(field, kind) __builtin_preserve_field_info(field, kind)
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
`;

/** A directory that goes away with the test file; call `remove` in afterAll. */
export class Workshop {
  readonly folder = mkdtempSync(join(tmpdir(), 'btf-'));
  #count = 0;

  remove(): void {
    rmSync(this.folder, { recursive: true });
  }

  #compile(compiler: string, source: string, ...flags: string[]): string {
    const file = join(this.folder, `source${this.#count++}.c`);
    writeFileSync(file, source);
    const output = file.replace(/c$/, 'o');
    execFileSync(compiler, ['-g', '-c', ...flags, '-o', output, file], { stdio: 'pipe' });
    return output;
  }

  /** An object for BPF. */
  bpf(source: string, ...flags: string[]): string {
    return this.#compile(CLANG, source, '-target', 'bpf', '-O2', '-mcpu=v3', ...flags);
  }

  gcc(source: string, ...flags: string[]): string {
    return this.#compile('gcc', source, '-O1', ...flags);
  }

  /** BTF that pahole makes of gcc's debug information. */
  pahole(source: string): string {
    const path = this.gcc(source);
    execFileSync('pahole', ['--btf_gen_all', '-J', path], { stdio: 'pipe' });
    return path;
  }

  /** What bpftool prints of raw BTF. */
  bpftool(bytes: Uint8Array, ...args: string[]): string {
    const file = join(this.folder, `raw${this.#count++}.btf`);
    writeFileSync(file, bytes);
    return execFileSync(BPFTOOL!, ['btf', 'dump', 'file', file, ...args], {
      encoding: 'utf8',
      maxBuffer: 2 ** 30,
      stdio: 'pipe',
    });
  }
}

/** A section of a 64-bit little-endian ELF file; throws where it is not there. */
export function sectionOf(path: string, name: string): Uint8Array {
  const bytes = readFileSync(path);
  const headers = Number(bytes.readBigUInt64LE(0x28));
  const [size, count, names] = [0x3a, 0x3c, 0x3e].map(at => bytes.readUInt16LE(at));
  const header = (index: number) => {
    const at = headers + index * size;
    return {
      name: bytes.readUInt32LE(at),
      offset: Number(bytes.readBigUInt64LE(at + 24)),
      size: Number(bytes.readBigUInt64LE(at + 32)),
    };
  };
  const table = header(names).offset;
  for (let index = 0; index < count; index++) {
    const section = header(index);
    const start = table + section.name;
    if (bytes.toString('latin1', start, bytes.indexOf(0, start)) === name)
      return Uint8Array.from(bytes.subarray(section.offset, section.offset + section.size));
  }
  throw new Error(`${path} has no section ${name}`);
}

export function btfOf(path: string, relaxed = false): Btf {
  return Btf.parse(sectionOf(path, '.BTF'), { name: path, relaxed });
}

/** C with every kind of type that clang writes for BPF. */
export const EVERY_KIND = `${CORE_HEADER}
typedef _Bool bool;
struct fwd_only;
union fwd_union;
enum color { RED, GREEN = 5, BLUE = -3 };
enum wide { SMALL = 1, LARGE = 0x123456789abcULL };
enum negative { LOW = -0x123456789abLL };
typedef int (*handler_t)(struct fwd_only *, const char *fmt, ...);
struct bits { u32 a : 3; u32 : 5; int b : 7; u64 c : 40; enum color d : 4; bool e : 1; };
struct node { struct node *next; struct node *(*find)(struct node *, int); int value; };
union number { u64 whole; double real; struct { u32 low, high; }; u8 bytes[8]; };
struct __attribute__((packed)) tight { char c; u64 l; u16 s; };
struct outer {
  int id;
  union { int x; float y; };
  struct { u16 port; char name[10]; } endpoint;
  union number number;
  struct bits bits;
  struct tight tight;
  const volatile int *const *pointers[3];
  handler_t handler;
  u8 matrix[2][3];
  enum wide wide;
  enum negative negative;
  __int128 huge;
  long flexible[];
} __attribute__((aligned(64)));
typedef struct { int anonymous; } anonymous_t;
struct tagged { int plain; int special __attribute__((btf_decl_tag("member"))); } __attribute__((btf_decl_tag("type")));
#define __user __attribute__((btf_type_tag("user")))
struct user_pointer { int __user *p; };
extern int outside(struct node *n, union fwd_union *u) __attribute__((section(".ksyms")));
struct outer first; static volatile anonymous_t second; const int third = 3;
struct tagged tagged; struct user_pointer user_pointer; struct node node;
__attribute__((noinline)) static int helper(struct node *restrict n, int v __attribute__((btf_decl_tag("argument")))) { return n->value + v; }
SEC("fentry/main") int program(u64 *ctx) { second.anonymous = third; return helper(&node, first.id) + outside(&node, 0); }
char _license[] SEC("license") = "GPL";
`;
