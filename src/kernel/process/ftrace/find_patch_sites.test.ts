import { describe, expect, test } from 'vitest';
import { findPatchSites } from './find_patch_sites.js';
import {
  isPatchSite,
  type ModuleCode,
  type PatchSite,
  placeDisplaced,
  REFUSALS,
  type Refusal,
  type RefusalReason,
} from './patch_site.js';

const BASE = 0x1000;
const DATA = 0x8000;

interface Scene {
  /** Size of the traced function at BASE; the whole code unless given. */
  size?: number;
  /** Starts of other functions, from BASE. */
  starts?: number[];
  /** Unwind-table entries: start from BASE, size. One for the whole code unless given. */
  frames?: [number, number][];
  /** Code addresses in data, from BASE. */
  pointers?: number[];
  /** Bytes at DATA. */
  data?: Buffer;
  /** The file is linked to a fixed address. */
  fixed?: boolean;
}

function code(hex: string): Buffer {
  return Buffer.from(hex.replaceAll(/\s/g, ''), 'hex');
}

function moduleOf(bytes: Uint8Array, scene: Scene): ModuleCode {
  const data = scene.data ?? Buffer.alloc(0);
  return {
    name: 'test',
    sections: [{ name: '.text', address: BASE, bytes }],
    functionStarts: [0, ...(scene.starts ?? [])].map(start => BASE + start),
    frames: (scene.frames ?? [[0, bytes.length]]).map(([start, size]) => ({ start: BASE + start, size })),
    pointers: (scene.pointers ?? []).map(pointer => BASE + pointer),
    readBytes: (address, length) =>
      address >= DATA && address + length <= DATA + data.length
        ? data.subarray(address - DATA, address - DATA + length)
        : undefined,
    ...(scene.fixed ? { fixedData: [{ name: '.data', address: DATA, bytes: data }] } : {}),
  };
}

/** The outcome for one function at BASE. */
function examine(hex: string, scene: Scene = {}): PatchSite | Refusal {
  const bytes = code(hex);
  const traced = { name: 'traced', address: BASE, size: scene.size ?? bytes.length };
  return findPatchSites(moduleOf(bytes, scene), [traced])[0];
}

function reason(hex: string, scene: Scene = {}): RefusalReason | PatchSite['kind'] {
  const result = examine(hex, scene);
  return isPatchSite(result) ? result.kind : result.reason;
}

function siteOf(hex: string, scene: Scene = {}): PatchSite {
  const result = examine(hex, scene);
  if (!isPatchSite(result)) throw new Error(`refused: ${result.reason} ${result.detail ?? ''}`);
  return result;
}

/** push rbp; mov rbp, rsp; sub rsp, 16; leave; ret */
const PROLOGUE = '55 4889e5 4883ec10 c9 c3';
const NOPS = '90'.repeat(32);

describe('where the site is', () => {
  test('whole instructions until five bytes', () => {
    const site = siteOf(PROLOGUE + NOPS);
    expect(site).toMatchObject({
      kind: 'moved',
      function: BASE,
      address: BASE,
      length: 8,
      loopsToEntry: false,
    });
    expect(Buffer.from(site.original).toString('hex')).toBe('554889e54883ec10');
    expect(site.displaced).toMatchObject({ resumes: true, resumeAt: BASE + 8 });
  });

  test('behind endbr64', () => {
    expect(siteOf(`f30f1efa${PROLOGUE}${NOPS}`)).toMatchObject({
      address: BASE + 4,
      length: 8,
      function: BASE,
    });
  });

  test('a nop sled: single nops, one long nop, behind endbr64, and nops that end behind the five bytes', () => {
    expect(siteOf(`9090909090${PROLOGUE}${NOPS}`)).toMatchObject({ kind: 'nop-sled', length: 5 });
    expect(siteOf(`0f1f440000${PROLOGUE}${NOPS}`)).toMatchObject({ kind: 'nop-sled', length: 5 });
    expect(siteOf(`f30f1efa 90909090909090 ${PROLOGUE}${NOPS}`)).toMatchObject({
      kind: 'nop-sled',
      address: BASE + 4,
      length: 5,
    });
    const site = siteOf(`0f1f4000 660f1f440000 ${PROLOGUE}${NOPS}`);
    expect(site).toMatchObject({ kind: 'nop-sled', length: 10 });
    expect(site.displaced).toMatchObject({ resumes: true, resumeAt: BASE + 10 });
    expect(site.displaced.bytes.length).toBe(0);
    expect(site.displaced.boundaries).toEqual([
      { from: 0, to: 0 },
      { from: 4, to: 0 },
    ]);
  });

  test('four nops are no sled: they are moved with what follows', () => {
    expect(siteOf(`90909090 ${PROLOGUE}${NOPS}`)).toMatchObject({ kind: 'moved', length: 5 });
  });

  test('an unknown size is taken from the unwind table, else from the next function', () => {
    expect(reason(PROLOGUE + NOPS, { size: 0 })).toBe('moved');
    expect(reason(`31c0c3 ${'cc'.repeat(13)}${NOPS}`, { size: 0, frames: [[0, 3]] })).toBe('moved');
    expect(reason(`31c0c3 ${PROLOGUE}`, { size: 0, frames: [], starts: [3] })).toBe('too-short');
  });

  test('the same function asked for twice has the same site', () => {
    const bytes = code(PROLOGUE + NOPS);
    const fn = { name: 'a', address: BASE, size: 10 };
    const [a, b] = findPatchSites(moduleOf(bytes, {}), [fn, { ...fn, name: 'alias' }]);
    expect(a).toBe(b);
    expect(isPatchSite(a)).toBe(true);
  });
});

/** Each reason beside a near twin that is accepted. */
const REFUSED: [RefusalReason, string, [string, Scene?], [string, Scene?]][] = [
  ['trap', 'ud2 first', [`0f0b ${NOPS}`], [`c3 ${NOPS}`]],
  ['trap', 'int3 third', [`55 53 cc ${NOPS}`], [`55 53 90 5b 5d c3 ${NOPS}`]],
  ['far-transfer', 'iretq', [`55 5d 48cf ${NOPS}`], [`55 5d 9090 c3 ${NOPS}`]],
  ['transaction', 'xbegin', [`c7f800000000 ${NOPS}`], [`c7c000000000 c3 ${NOPS}`]],
  [
    'unrelocatable',
    'a call through [rsp + 8]',
    [`4889f8 ff542408 ${NOPS}`],
    [`4889f8 ff542408 ${NOPS}`.replace('ff542408', 'ff5508')],
  ],
  ['unrelocatable', 'an eip-relative load', [`678b0500000000 ${NOPS}`], [`8b0500000000 ${NOPS}`]],
  ['undecodable', 'an invalid opcode', [`55 06 ${NOPS}`], [`55 5d ${NOPS}`]],
  [
    'undecodable',
    'an instruction across its end',
    [`55 53 b801000000 c3 ${NOPS}`, { size: 4, frames: [[0, 4]] }],
    [`55 53 b801000000 c3 ${NOPS}`, { size: 8, frames: [[0, 8]] }],
  ],
  ['call-returns-inside', 'call rax', [`ffd0 ${NOPS}`], [`ffe0 ${NOPS}`]],
  [
    'call-returns-inside',
    'a call that ends one byte early',
    [`55 53 ffd0 ${NOPS}`],
    [`55 53 50 ffd0 ${NOPS}`],
  ],
  ['reads-flags', 'setc first', [`0f92c0 0fb6c0 c3 ${NOPS}`], [`4885ff 0f92c0 c3 ${NOPS}`]],
  [
    'reads-flags',
    'adc behind the site',
    [`4889f8 4889f1 4811c8 c3 ${NOPS}`],
    [`4889f8 4889f1 4801c8 c3 ${NOPS}`],
  ],
  [
    'reads-flags',
    'inc keeps the carry flag',
    [`48ffc7 4889f8 4811c8 c3 ${NOPS}`],
    [`4883c701 4889f8 4811c8 c3 ${NOPS}`],
  ],
  ['signal-return', 'mov rax, 15; syscall', [`48c7c00f000000 0f05 ${NOPS}`], [`48c7c00e000000 0f05 ${NOPS}`]],
  [
    'too-short',
    'ret, then another function',
    [
      `c3 ${PROLOGUE}${NOPS}`,
      {
        size: 1,
        starts: [1],
        frames: [
          [0, 1],
          [1, 40],
        ],
      },
    ],
    [
      `c3 ${'90'.repeat(15)} ${PROLOGUE}`,
      {
        size: 1,
        starts: [16],
        frames: [
          [0, 1],
          [16, 10],
        ],
      },
    ],
  ],
  [
    'too-short',
    'four bytes of padding that are none',
    [
      `c3 ${'90'.repeat(8)} 55 ${'90'.repeat(6)} ${PROLOGUE}`,
      {
        size: 1,
        starts: [16],
        frames: [
          [0, 1],
          [16, 10],
        ],
      },
    ],
    [
      `c3 0f1f00 ${'cc'.repeat(12)} ${PROLOGUE}`,
      {
        size: 1,
        starts: [16],
        frames: [
          [0, 1],
          [16, 10],
        ],
      },
    ],
  ],
  [
    'too-short',
    'it falls into the next function',
    [
      `55 53 ${'90'.repeat(14)}${PROLOGUE}`,
      {
        size: 2,
        starts: [16],
        frames: [
          [0, 2],
          [16, 10],
        ],
      },
    ],
    [
      `55 c3 ${'90'.repeat(14)}${PROLOGUE}`,
      {
        size: 2,
        starts: [16],
        frames: [
          [0, 2],
          [16, 10],
        ],
      },
    ],
  ],
  [
    'too-short',
    'the section ends',
    ['31c0 c3'],
    [`31c0 c3 9090 ${'90'.repeat(11)}`, { size: 3, frames: [[0, 3]] }],
  ],
  [
    'overlaps-function',
    'another start inside',
    [PROLOGUE + NOPS, { starts: [4] }],
    [PROLOGUE + NOPS, { starts: [8] }],
  ],
  [
    'overlaps-function',
    'another start at the site itself',
    [`f30f1efa${PROLOGUE}${NOPS}`, { starts: [4] }],
    [`f30f1efa${PROLOGUE}${NOPS}`, { starts: [12] }],
  ],
  [
    'branch-into-entry',
    'a short loop',
    [`4889f8 48ffcf 75f8 c3 ${NOPS}`.replace('75f8', '75fb')],
    [`4889f8 4889f8 48ffcf 75fb c3 ${NOPS}`],
  ],
  [
    'branch-into-entry',
    'a long conditional jump',
    [`4889f8 48ffcf 0f85f7ffffff c3 ${NOPS}`],
    [`4889f8 4889f8 48ffcf 0f85f7ffffff c3 ${NOPS}`],
  ],
  [
    'branch-into-entry',
    'a call from another function',
    [
      `${PROLOGUE}${'90'.repeat(6)} e8ecffffff c3 ${NOPS}`,
      {
        size: 10,
        starts: [16],
        frames: [
          [0, 10],
          [16, 6],
        ],
      },
    ],
    [
      `${PROLOGUE}${'90'.repeat(6)} e8ebffffff c3 ${NOPS}`,
      {
        size: 10,
        starts: [16],
        frames: [
          [0, 10],
          [16, 6],
        ],
      },
    ],
  ],
  [
    'branch-into-entry',
    'a lea of its inside',
    [`${PROLOGUE}${'90'.repeat(6)} 488d05eaffffff c3 ${NOPS}`, { size: 10, starts: [16] }],
    [`${PROLOGUE}${'90'.repeat(6)} 488d05e9ffffff c3 ${NOPS}`, { size: 10, starts: [16] }],
  ],
  ['branch-into-entry', 'jrcxz', [`4889f8 48ffcf e3fb c3 ${NOPS}`], [`4889f8 48ffcf e3f8 c3 ${NOPS}`]],
  ['branch-into-entry', 'an endbr64 inside', [`90 f30f1efa c3 ${NOPS}`], [`90 90909090 c3 ${NOPS}`]],
  [
    'undecided-branch',
    'bytes behind the function that nothing describes',
    [`${PROLOGUE}${'90'.repeat(6)} ebf2 ${NOPS}`, { size: 10, frames: [[0, 10]] }],
    [
      `${PROLOGUE}${'90'.repeat(6)} b8ebf20000 ${NOPS}`,
      {
        size: 10,
        starts: [16],
        frames: [
          [0, 10],
          [16, 5],
        ],
      },
    ],
  ],
  [
    'pointer-into-entry',
    'a relocation',
    [PROLOGUE + NOPS, { pointers: [1] }],
    [PROLOGUE + NOPS, { pointers: [0, 8] }],
  ],
];

test.each(REFUSED)('%s: %s', (expected, _, refused, accepted) => {
  expect(reason(...refused)).toBe(expected);
  expect(['moved', 'nop-sled']).toContain(reason(...accepted));
});

test('a branch that only seems one, inside an immediate, refuses nothing', () => {
  // mov eax, 0xf2eb: the bytes eb f2 would be a jump to BASE + 5.
  expect(reason(`${PROLOGUE} b8 ebf20000 c3 ${NOPS}`)).toBe('moved');
});

/** lea rdx, [rip + table]; movslq rax, [rdx + rdi*4]; add rax, rdx; jmp rax */
function switchTo(prologue: string, offsets: number[], rest = 0x100): [string, Scene] {
  const before = code(prologue).length;
  const displacement = Buffer.alloc(4);
  displacement.writeInt32LE(DATA - (BASE + before + 7));
  const data = Buffer.alloc(offsets.length * 4 + 4);
  for (const [i, offset] of offsets.entries()) data.writeInt32LE(BASE + offset - DATA, i * 4);
  data.writeInt32LE(rest, offsets.length * 4);
  return [`${prologue} 488d15${displacement.toString('hex')} 486304ba 4801d0 3effe0 ${NOPS}`, { data }];
}

test('jump-table-into-entry: a switch whose case is inside the site, and one whose cases are behind it', () => {
  const prologue = '4889f8 4889f1'; // the second instruction starts at 3
  expect(reason(...switchTo(prologue, [30, 31, 3]))).toBe('jump-table-into-entry');
  expect(reason(...switchTo(prologue, [30, 31, 6, 0]))).toBe('moved');
});

test('jump-table-into-entry: a case in another function does not end the table', () => {
  const [hex, scene] = switchTo('4889f8 4889f1', [30, 64, 3]);
  expect(
    reason(hex + NOPS, {
      ...scene,
      frames: [
        [0, 50],
        [60, 10],
      ],
      starts: [60],
    }),
  ).toBe('jump-table-into-entry');
});

test('jump-table-into-entry: the table of another function does not count', () => {
  // The same entries, read as a table by a function behind: they mean nothing for the traced one.
  const [hex, scene] = switchTo('', [30, 3]);
  const bytes = code(`4889f8 4889f1 c3 ${'90'.repeat(9)}`);
  const shifted = code(hex);
  shifted.writeInt32LE(DATA - (BASE + 16 + 7), 3);
  const whole = Buffer.concat([bytes, shifted]).toString('hex');
  expect(
    reason(whole, {
      ...scene,
      size: 7,
      starts: [16],
      frames: [
        [0, 7],
        [16, 60],
      ],
    }),
  ).toBe('moved');
});

describe('a file at a fixed address', () => {
  const data = (value: number) => {
    const bytes = Buffer.alloc(24);
    bytes.writeBigUInt64LE(BigInt(value), 8);
    return bytes;
  };

  test('pointer-into-entry: an address in data, without relocation', () => {
    expect(reason(PROLOGUE + NOPS, { fixed: true, data: data(BASE + 1) })).toBe('pointer-into-entry');
    expect(reason(PROLOGUE + NOPS, { fixed: true, data: data(BASE) })).toBe('moved');
    expect(reason(PROLOGUE + NOPS, { fixed: false, data: data(BASE + 1) })).toBe('moved');
  });

  test('pointer-into-entry: wherever the bytes of the section lie in a buffer, and where it starts', () => {
    const pointer = Buffer.alloc(8);
    pointer.writeUInt32LE(BASE + 1);
    for (const address of [DATA, DATA + 3]) {
      for (const offset of [0, 1, 5, 8]) {
        // Another address stands in front of the section: it is not looked at.
        const before = Buffer.alloc(offset, 0xff);
        const bytes = Buffer.concat([before, Buffer.alloc(-address & 7), pointer]).subarray(offset);
        const traced = { name: 'traced', address: BASE, size: 10 };
        const scene = moduleOf(code(PROLOGUE + NOPS), {});
        const look = (data: Uint8Array) =>
          findPatchSites({ ...scene, fixedData: [{ name: '.data', address, bytes: data }] }, [traced])[0];
        expect(look(bytes)).toMatchObject({ reason: 'pointer-into-entry' });
        expect(look(bytes.subarray(0, -1))).toMatchObject({ kind: 'moved' });
      }
    }
  });

  test('branch-into-entry: an address in an instruction', () => {
    expect(reason(`${PROLOGUE} b801100000 ffe0 ${NOPS}`, { fixed: true })).toBe('branch-into-entry');
    expect(reason(`${PROLOGUE} b800100000 ffe0 ${NOPS}`, { fixed: true })).toBe('moved');
    // The same bytes as a distance are no address.
    expect(reason(`${PROLOGUE} 8b0501100000 ${NOPS}`, { fixed: true })).toBe('moved');
  });
});

describe('a jump back to the entry', () => {
  test('is allowed, and told', () => {
    // dec rdi; mov rax, rdi; jnz to the start
    expect(siteOf(`48ffcf 4889f8 75f8 c3 ${NOPS}`)).toMatchObject({ loopsToEntry: true });
    expect(siteOf(`48ffcf 4889f8 75fe c3 ${NOPS}`)).toMatchObject({ loopsToEntry: false });
  });

  test('before endbr64 counts too', () => {
    expect(siteOf(`f30f1efa 48ffcf 4889f8 75f4 c3 ${NOPS}`)).toMatchObject({ loopsToEntry: true });
  });

  test('red-zone-loop: it is refused where data is kept below the stack pointer', () => {
    const loop = (store: string) => `48ffcf 4889f8 ${store} 75f3 c3 ${NOPS}`;
    expect(reason(loop('48897c24f8'))).toBe('red-zone-loop');
    expect(reason(loop('48897c2408'))).toBe('moved');
  });

  test('from another function is a tail call', () => {
    const hex = `4889f8 4889f1 c3 ${'90'.repeat(9)} 48897c24f8 ebe9 ${NOPS}`;
    expect(
      siteOf(hex, {
        size: 7,
        starts: [16],
        frames: [
          [0, 7],
          [16, 7],
        ],
      }),
    ).toMatchObject({ loopsToEntry: false });
  });
});

test('functions that are too near refuse the first only', () => {
  const bytes = code(`${PROLOGUE}${NOPS}`);
  const functions = [
    { name: 'a', address: BASE, size: 4 },
    { name: 'b', address: BASE + 4, size: 6 },
  ];
  const [a, b] = findPatchSites(moduleOf(bytes, {}), functions);
  expect(a).toMatchObject({ reason: 'overlaps-function' });
  expect(isPatchSite(b)).toBe(true);
});

test('a function outside the code is refused, and none of nothing is found', () => {
  expect(findPatchSites(moduleOf(code(NOPS), {}), [{ name: 'x', address: 5, size: 9 }])[0]).toMatchObject({
    reason: 'outside-code',
  });
  expect(findPatchSites(moduleOf(code(NOPS), {}), [])).toEqual([]);
});

test('displaced code is placed with the load bias of the process', () => {
  const site = siteOf(`e8fb000000 c3 ${NOPS}`);
  const bias = 0x7f1234560000n;
  const at = bias + 0x100000n;
  const placed = placeDisplaced(site, at, bias);
  const view = new DataView(placed.buffer);
  // push [rip + constant]; jmp callee; the constant is the original return address.
  const constant = 6 + view.getInt32(2, true);
  expect(view.getBigUint64(constant, true)).toBe(bias + BigInt(BASE + 5));
  expect(at + 11n + BigInt(view.getInt32(7, true))).toBe(bias + BigInt(BASE + 0x100));
  expect(site.displaced.resumes).toBe(false);
});

test('every reason has one sentence without a full stop', () => {
  for (const sentence of Object.values(REFUSALS)) expect(sentence).toMatch(/^[a-z][^.]+[^.]$/);
});
