import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Btf } from './btf.js';
import { BtfExt } from './ext.js';
import { btfOf, CORE_HEADER, hasClang, sectionOf, Workshop } from './fixture.js';

const workshop = new Workshop();
afterAll(() => workshop.remove());

const SOURCE = `${CORE_HEADER}
struct pair { int a; int b; } __pai;
static __attribute__((noinline)) int second(struct pair *p) { return p->b; }
SEC("fentry/one")
int one(struct pair *p)
{
	return p->a + second(p);
}
SEC("fexit/two")
int two(struct pair *p) { return second(p); }
`;

describe.skipIf(!hasClang)('.BTF.ext of a compiled program', () => {
  let btf: Btf;
  let bytes: Uint8Array;
  beforeAll(() => {
    const path = workshop.bpf(SOURCE);
    btf = btfOf(path);
    bytes = sectionOf(path, '.BTF.ext');
  });

  it('says where functions begin, and which source lines instructions are of', () => {
    const ext = BtfExt.parse(bytes, btf);
    const functions = [...ext.funcInfo].map(([section, infos]) => [
      section,
      infos.map(({ insnOffset, typeId }) => `${insnOffset} ${btf.name(typeId)}`),
    ]);
    expect(functions.sort()).toEqual([
      ['.text', ['0 second']],
      ['fentry/one', ['0 one']],
      ['fexit/two', ['0 two']],
    ]);
    const lines = ext.lineInfo.get('fentry/one')!;
    expect(lines[0]).toMatchObject({ insnOffset: 0, file: expect.stringMatching(/\.c$/) });
    expect(lines.map(({ text }) => text)).toContain('\treturn p->a + second(p);');
    const [line] = lines.filter(({ text }) => text.includes('return'));
    expect(SOURCE.split('\n')[line.line - 1]).toBe('\treturn p->a + second(p);');
    expect(line.column).toBeGreaterThan(0);
  });

  it('says what is to be relocated', () => {
    const ext = BtfExt.parse(bytes, btf);
    expect(ext.coreRelos.get('fentry/one')).toMatchObject([{ access: '0:0', kind: 'field_byte_offset' }]);
    expect(ext.coreRelos.get('.text')).toMatchObject([
      { access: '0:1', kind: 'field_byte_offset', typeId: btf.find('pair', 'struct') },
    ]);
  });

  it('may be of the older form without relocations, or have larger records', () => {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const header = view.getUint32(4, true);
    const old = Uint8Array.of(...bytes.subarray(0, 24), ...bytes.subarray(header));
    new DataView(old.buffer).setUint32(4, 24, true);
    const ext = BtfExt.parse(old, btf);
    expect(ext.coreRelos.size).toBe(0);
    expect(ext.funcInfo.size).toBe(3);

    // Each record of the function table gets a word more.
    const [offset, length] = [view.getUint32(8, true), view.getUint32(12, true)];
    const words = new Uint32Array(bytes.slice(header + offset, header + offset + length).buffer);
    const grown = [12];
    for (let at = 1; at < words.length; ) {
      const count = words[at + 1];
      grown.push(words[at], count);
      at += 2;
      for (let index = 0; index < count; index++, at += 2) grown.push(words[at], words[at + 1], 0);
    }
    const head = new Uint32Array([0, 24, 0, grown.length * 4, 0, 0]);
    head[0] = view.getUint32(0, true);
    const larger = new Uint8Array(new Uint32Array([...head, ...grown]).buffer);
    expect(BtfExt.parse(larger, btf).funcInfo).toEqual(BtfExt.parse(bytes, btf).funcInfo);
  });

  const damages: [string, (view: DataView) => unknown, string][] = [
    ['nothing', () => new Uint8Array(0), 'which is no header'],
    ['another magic', view => view.setUint16(0, 7, true), 'begins with 0x7'],
    ['another version', view => view.setUint8(2, 9), 'version 9'],
    ['a table outside', view => view.setUint32(12, 0x7fff_fffc, true), 'outside the section'],
    ['records that are too small', view => view.setUint32(32, 4, true), 'records of 4 bytes'],
    ['a count that is too large', view => view.setUint32(40, 0xffff_ffff, true), 'does not hold'],
    ['a name that there is not', view => view.setUint32(36, 0xffff_ffff, true), 'no name at'],
    ['an offset inside an instruction', view => view.setUint32(44, 4, true), 'inside an instruction'],
    ['a function that is none', view => view.setUint32(48, 1, true), 'as a function, which is none'],
    ['a type that there is not', view => view.setUint32(48, 0xffff, true), 'refers to type 65535'],
  ];
  it.each(damages)('is refused with %s', (_, change, message) => {
    const copy = Uint8Array.from(bytes);
    const replaced = change(new DataView(copy.buffer));
    expect(() => BtfExt.parse(replaced instanceof Uint8Array ? replaced : copy, btf)).toThrow(message);
  });
});
