/**
 * Writes C programs of functions with random prototypes (integers, floating point, wide integers, enums, structures and
 * unions of all kinds by value, up to 14 parameters), which say themselves what bytes each argument and result has and
 * which of them count: what a tracer must see, by nobody's idea of the calling convention but the compiler's.
 */

import type { Random } from '../../src/bpf/fixture.js';

const SCALARS = [
  ...['char', 'signed char', 'unsigned char', 'short', 'unsigned short', 'int', 'unsigned', 'long'],
  ...['unsigned long', 'long long', 'void *', 'const char *', 'enum colour', 'float', 'double'],
];
const WIDE = ['long double', '__int128', 'unsigned __int128'];
const STRUCTS = 24;
/** Seldom made at random: long doubles that share their bytes, some in registers for it, some in memory. */
const SHARED = [
  'long double f0; __int128 f1;',
  'long double f0; char f1[16];',
  'double f0[2]; long double f1;',
  '__int128 f0; long double f1; double f2[2];',
  'long double f0; double f1[2]; __int128 f2;',
  'long double f0; long f1;',
  'long double f0;',
];

function structure(random: Random, name: string, nested: readonly string[]): string {
  const fields: string[] = [];
  const union = random.chance(15);
  const count = 1 + random.below(union ? 3 : 5);
  for (let i = 0; i < count; i++) {
    const roll = random.below(100);
    if (roll < 55) fields.push(`${random.pick(SCALARS)} f${i};`);
    else if (roll < 62) fields.push(`unsigned f${i} : ${1 + random.below(31)};`);
    else if (roll < 75)
      fields.push(`${random.pick(['char', 'int', 'float', 'short'])} f${i}[${1 + random.below(4)}];`);
    else if (roll < 90 && nested.length > 0) fields.push(`struct ${random.pick(nested)} f${i};`);
    else fields.push(`${random.pick(['float', 'double', 'long double', '__int128'])} f${i};`);
  }
  // Types do not say whether one with numbers of 16 bytes is packed.
  const wide = fields.some(field => /128|long double|struct/.test(field));
  const packed = !wide && random.chance(15) ? ' __attribute__((packed))' : '';
  return `struct ${name} { ${union ? `union { ${fields.join(' ')} };` : fields.join(' ')} }${packed};\n`;
}

/** A function of the program. */
export interface Prototype {
  readonly name: string;
  readonly params: readonly string[];
  readonly returns: string;
}

/** The number of the result among a function's values. */
export const RESULT = 99;

export interface PrototypesProgram {
  readonly functions: readonly Prototype[];
  /** What both files include as prototypes.h, the functions, and what calls them (GNU C: for gcc). */
  readonly header: string;
  readonly traced: string;
  readonly main: string;
}

/**
 * A program with `count` functions f0, f1, …. It prints for each value its function, its position (`RESULT`), its
 * bytes and the bits of them that count; then `ready`, and for each line of its input it calls every function once and
 * prints how many values were not what they should be.
 */
export function prototypesProgram(random: Random, count: number): PrototypesProgram {
  const structs: string[] = [];
  let header = 'enum colour { RED, GREEN = 70000 };\n';
  for (let i = 0; i < STRUCTS; i++) {
    header += structure(random, `s${i}`, structs.slice(0, 12));
    structs.push(`s${i}`);
  }
  for (const [i, members] of SHARED.entries()) {
    header += `struct u${i} { union { ${members} }; };\n`;
    structs.push(`u${i}`);
  }
  header += DECLARATIONS;
  const type = (): string => {
    const roll = random.below(100);
    if (roll < 55) return random.pick(SCALARS);
    return roll < 65 ? random.pick(WIDE) : `struct ${random.pick(structs)}`;
  };
  const masks = new Map<string, string>();
  const mask = (of: string): string => {
    const name = `mask_${of.replace(/\W+/g, '_')}`;
    const padding = of === 'long double' ? 'memset((char *)&v + 10, 0, 6);' : '__builtin_clear_padding(&v);';
    const clear = of.startsWith('struct ') || of === 'long double' ? padding : '';
    masks.set(
      name,
      `const void *${name}(void) { static ${of} v; memset(&v, 0xff, sizeof v); ${clear} return &v; }\n`,
    );
    return `${name}()`;
  };
  const functions: Prototype[] = [];
  let traced = '';
  let calls = '';
  let says = '';
  for (let f = 0; f < count; f++) {
    const params = Array.from({ length: random.below(random.chance(25) ? 15 : 7) }, type);
    const returns = random.chance(15) ? 'void' : type();
    const name = `f${f}`;
    functions.push({ name, params, returns });
    const head = `${returns} ${name}(${params.map((t, i) => `${t} a${i}`).join(', ') || 'void'})`;
    header += `${head};\n`;
    const value = (of: string, variable: string, position: number): string =>
      `${of} ${variable}; fill(&${variable}, ${f}, ${position}, sizeof ${variable});`;
    const check = (of: string, variable: string, position: number): string =>
      `same(&${variable}, ${f}, ${position}, ${mask(of)}, sizeof ${variable});`;
    const say = (of: string, position: number): string =>
      `  { ${value(of, 'v', position)} say(${f}, ${position}, &v, ${mask(of)}, sizeof v); }\n`;
    traced += `${head} {\n  calls++;\n`;
    for (const [i, t] of params.entries()) {
      traced += `  ${check(t, `a${i}`, i)}\n`;
      says += say(t, i);
      calls += `  ${i === 0 ? '{ ' : ''}${value(t, `a${i}`, i)}\n`;
    }
    if (params.length === 0) calls += '  {\n';
    const call = `${name}(${params.map((_, i) => `a${i}`).join(', ')});`;
    if (returns === 'void') calls += `  ${call} }\n`;
    else {
      traced += `  ${value(returns, 'r', RESULT)}\n  return r;\n`;
      says += say(returns, RESULT);
      calls += `  ${returns} r = ${call} ${check(returns, 'r', RESULT)} }\n`;
    }
    traced += '}\n';
  }
  for (const [name] of masks) header += `const void *${name}(void);\n`;
  const main = `${INCLUDES}${[...masks.values()].join('')}${COMMON}
int main(void) {
  setbuf(stdout, 0);
${says}  puts("ready");
  char line[16];
  while (fgets(line, sizeof line, stdin)) {
    calls = wrong = 0;
${calls}    printf("%d calls, %d wrong\\n", calls, wrong);
  }
}
`;
  return { functions, header, traced: `#include "prototypes.h"\n${traced}`, main };
}

const DECLARATIONS = `
#include <stddef.h>
extern int calls, wrong;
void fill(void *to, unsigned f, unsigned a, size_t n);
void same(const void *v, int f, int a, const void *mask, size_t n);
`;

const INCLUDES = `#include <stdio.h>
#include <string.h>
#include "prototypes.h"
`;

const COMMON = `
int calls, wrong;
void fill(void *to, unsigned f, unsigned a, size_t n) {
  unsigned long x = (f * 131 + a + 1) * 0x9e3779b97f4a7c15ul;
  unsigned char *bytes = to;
  for (size_t i = 0; i < n; i++) { x ^= x << 13; x ^= x >> 7; x ^= x << 17; bytes[i] = x >> 24; }
}
static void say(int f, int a, const void *v, const void *mask, size_t n) {
  printf("%d %d ", f, a);
  for (size_t i = 0; i < n; i++) printf("%02x", ((const unsigned char *)v)[i]);
  printf(" ");
  for (size_t i = 0; i < n; i++) printf("%02x", ((const unsigned char *)mask)[i]);
  printf("\\n");
}
void same(const void *v, int f, int a, const void *mask, size_t n) {
  unsigned char want[65536];
  const unsigned char *bits = mask, *is = v;
  fill(want, f, a, n);
  for (size_t i = 0; i < n; i++) if ((is[i] ^ want[i]) & bits[i]) { wrong++; return; }
}
`;
