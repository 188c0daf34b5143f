import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ElfFile } from './file.js';
import { frameRanges } from './frames.js';

const LIBC = '/usr/lib/x86_64-linux-gnu/libc.so.6';
const REAL_FILES = [
  LIBC,
  '/usr/lib/x86_64-linux-gnu/libcrypto.so.3',
  '/usr/lib/x86_64-linux-gnu/libstdc++.so.6',
  '/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2',
  '/usr/bin/python3',
].filter(path => existsSync(path));

/** The ranges as readelf prints them, without following links to debug files. */
function rangesByReadelf(path: string): string[] {
  const text = spawnSync('readelf', ['-wfN', path], { encoding: 'utf8', maxBuffer: 2 ** 30 }).stdout;
  const lines = text
    .split('Contents of the .debug_frame')[0]
    .matchAll(/ FDE .* pc=([0-9a-f]+)\.\.([0-9a-f]+)/g);
  const ranges = [...lines]
    .filter(([, start, end]) => start !== end)
    .map(([, start, end]) => `${start} ${end}`);
  return [...new Set(ranges)].sort();
}

function hex(value: number): string {
  return value.toString(16).padStart(16, '0');
}

describe('frames of real files', () => {
  it('has files to read', () => expect(REAL_FILES.length).toBeGreaterThan(1));

  it.skipIf(spawnSync('readelf', ['--version']).error).each(REAL_FILES)(
    '%s: every FDE that readelf prints',
    path => {
      const ranges = frameRanges(ElfFile.open(path));
      expect(ranges.length).toBeGreaterThan(100);
      expect(ranges.map(({ start, size }) => `${hex(start)} ${hex(start + size)}`)).toEqual(
        rangesByReadelf(path),
      );
    },
  );

  it('starts where exported functions start', () => {
    const elf = ElfFile.open(LIBC);
    const starts = new Set(frameRanges(elf).map(({ start }) => start));
    const functions = elf
      .symbols(new Set(['FUNC']))
      .filter(({ sectionIndex, size }) => sectionIndex !== 0 && size > 0);
    const covered = functions.filter(({ value }) => starts.has(value));
    expect(functions.length).toBeGreaterThan(2000);
    expect(covered.length / functions.length).toBeGreaterThan(0.99);
  });

  it('marks the one frame that signals return through', () => {
    expect(frameRanges(ElfFile.open(LIBC)).filter(({ signalFrame }) => signalFrame)).toHaveLength(1);
  });

  it('finds the frames through .eh_frame_hdr when there are no section headers', () => {
    const bytes = readFileSync(LIBC);
    const whole = frameRanges(ElfFile.parse(bytes, LIBC));
    bytes.fill(0, 40, 48);
    bytes.fill(0, 58, 64);
    expect(frameRanges(ElfFile.parse(bytes, LIBC))).toEqual(whole);
  });
});

/** A program of one executable page at 0x1000 and .eh_frame with these bytes at 0x3000. */
function programWithFrames(frames: Buffer): ElfFile {
  const bytes = Buffer.alloc(0x2000 + frames.length);
  bytes.write('\x7fELF\x02\x01\x01', 'latin1');
  bytes.writeUInt16LE(3, 16);
  bytes.writeUInt16LE(62, 18);
  bytes.writeUInt32LE(64, 32);
  bytes.writeUInt32LE(256, 40);
  bytes.writeUInt16LE(56, 54);
  bytes.writeUInt16LE(1, 56);
  bytes.writeUInt16LE(64, 58);
  bytes.writeUInt16LE(3, 60);
  bytes.writeUInt16LE(2, 62);
  // PT_LOAD, executable: file 0x1000, 4,096 bytes at 0x1000.
  bytes.writeUInt32LE(1, 64);
  bytes.writeUInt32LE(5, 68);
  for (const [at, value] of [
    [8, 0x1000],
    [16, 0x1000],
    [32, 0x1000],
    [40, 0x1000],
  ])
    bytes.writeUInt32LE(value, 64 + at);
  const section = (
    index: number,
    name: number,
    type: number,
    address: number,
    offset: number,
    size: number,
  ) => {
    const at = 256 + index * 64;
    bytes.writeUInt32LE(name, at);
    bytes.writeUInt32LE(type, at + 4);
    bytes.writeUInt32LE(address, at + 16);
    bytes.writeUInt32LE(offset, at + 24);
    bytes.writeUInt32LE(size, at + 32);
  };
  section(1, 1, 1, 0x3000, 0x2000, frames.length);
  section(2, 0, 3, 0, 512, 16);
  bytes.write('\0.eh_frame\0', 512, 'latin1');
  frames.copy(bytes, 0x2000);
  return ElfFile.parse(bytes, 'made');
}

/** A CIE without instructions; `data` is the augmentation data. */
function cie(augmentation: string, data: number[]): Buffer {
  const body = [0, 0, 0, 0, 1, ...Buffer.from(`${augmentation}\0`), 1, 0x78, 16];
  if (augmentation.startsWith('z')) body.push(data.length, ...data);
  while (body.length % 4) body.push(0);
  return Buffer.concat([u32(body.length), Buffer.from(body)]);
}

/** An FDE whose CIE is `back` bytes before its own CIE field. */
function fde(back: number, pointers: Buffer): Buffer {
  return Buffer.concat([u32(4 + pointers.length), u32(back), pointers]);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value | 0);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(value));
  return bytes;
}

describe('pointer encodings', () => {
  const first = 0x3000;
  const rangesOf = (head: Buffer, pointers: Buffer) =>
    frameRanges(programWithFrames(Buffer.concat([head, fde(head.length + 4, pointers), u32(0)])));
  const expected = [{ start: 0x1100, size: 0x40, signalFrame: false }];

  it('absptr, with and without an augmentation', () => {
    const pointers = Buffer.concat([u64(0x1100), u64(0x40)]);
    expect(rangesOf(cie('', []), pointers)).toEqual(expected);
    expect(rangesOf(cie('zR', [0x00]), pointers)).toEqual(expected);
  });

  it('udata4, sdata4 and sdata8 relative to their place', () => {
    const head = cie('zR', [0x1b]);
    const place = first + head.length + 8;
    expect(rangesOf(head, Buffer.concat([u32(0x1100 - place), u32(0x40)]))).toEqual(expected);
    expect(rangesOf(cie('zR', [0x03]), Buffer.concat([u32(0x1100), u32(0x40)]))).toEqual(expected);
    expect(rangesOf(cie('zR', [0x1c]), Buffer.concat([u64(0x1100 - place), u64(0x40)]))).toEqual(expected);
  });

  it('udata2 and uleb128', () => {
    expect(rangesOf(cie('zR', [0x02]), Buffer.from([0x00, 0x11, 0x40, 0x00]))).toEqual(expected);
    expect(rangesOf(cie('zR', [0x01]), Buffer.from([0x80, 0x22, 0x40, 0x00]))).toEqual(expected);
  });

  it('steps over a personality and a language-specific area, and sees a signal frame', () => {
    const head = cie('zPLRS', [0x9b, 1, 2, 3, 4, 0x1b, 0x03]);
    expect(rangesOf(head, Buffer.concat([u32(0x1100), u32(0x40)]))).toEqual([
      { ...expected[0], signalFrame: true },
    ]);
  });

  it('leaves out what it can not know: indirect pointers, unknown augmentations, ranges outside of code', () => {
    const pointers = Buffer.concat([u32(0x1100), u32(0x40)]);
    expect(rangesOf(cie('zR', [0x83]), pointers)).toEqual([]);
    expect(rangesOf(cie('zX', [0x03]), pointers)).toEqual([]);
    expect(rangesOf(cie('zR', [0x03]), Buffer.concat([u32(0x900), u32(0x40)]))).toEqual([]);
    expect(rangesOf(cie('zR', [0x03]), Buffer.concat([u32(0x1ff0), u32(0x40)]))).toEqual([]);
    expect(rangesOf(cie('zR', [0x03]), Buffer.concat([u32(0x1100), u32(0)]))).toEqual([]);
  });

  it('reads on after a zero between two object files, and keeps equal ranges once', () => {
    const head = cie('zR', [0x03]);
    const one = fde(head.length + 4, Buffer.concat([u32(0x1100), u32(0x40)]));
    const two = fde(head.length + one.length + 8, Buffer.concat([u32(0x1100), u32(0x40)]));
    const three = fde(head.length + one.length + two.length + 8, Buffer.concat([u32(0x1080), u32(0x10)]));
    const frames = Buffer.concat([head, one, u32(0), two, three, u32(0)]);
    expect(frameRanges(programWithFrames(frames))).toEqual([
      { start: 0x1080, size: 0x10, signalFrame: false },
      ...expected,
    ]);
  });

  it('stops at records that are cut short or too short, and at references to nowhere', () => {
    const head = cie('zR', [0x03]);
    const good = fde(head.length + 4, Buffer.concat([u32(0x1100), u32(0x40)]));
    for (const tail of [
      Buffer.from([2, 0, 0, 0, 1, 1]),
      u32(100),
      u32(-1),
      Buffer.from([1]),
      fde(0x7fffffff, u32(0)),
    ])
      expect(frameRanges(programWithFrames(Buffer.concat([head, good, tail])))).toEqual(expected);
  });
});
