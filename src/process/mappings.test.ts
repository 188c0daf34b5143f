import { expect, test } from 'vitest';
import { findFreeRange, parseMappings, readMappings } from './mappings.js';

const TEXT = `00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus daemon (deleted)
00e03000-00e24000 rw-p 00000000 00:00 0           [heap]
7f0000000000-7f0000200000 rw-s 00001000 00:01 42
7fff0000000-7fffb2c48000 rw-p 00000000 00:00 0    [stack]
`;

test('a maps file is parsed: flags, offset, inode, paths with spaces, deleted files', () => {
  const [program, heap, shared, stack] = parseMappings(TEXT);
  expect(program).toEqual({
    start: 0x400000n,
    end: 0x452000n,
    readable: true,
    writable: false,
    executable: true,
    shared: false,
    offset: 0,
    inode: 173521,
    path: '/usr/bin/dbus daemon',
    deleted: true,
  });
  expect(heap.path).toBe('[heap]');
  expect(shared).toMatchObject({ shared: true, offset: 0x1000, path: '', inode: 42 });
  expect(stack.path).toBe('[stack]');
});

test('the map of a live process holds its own program', () => {
  expect(readMappings(process.pid).some(m => m.executable && m.path === process.execPath)).toBe(true);
});

test('a process that does not exist is ESRCH', () => {
  expect(() => readMappings(0x3fffff)).toThrow(/process 4194303 is gone/);
});

const REACH = 0x7ff0_0000n;

test('a free range lies below what it serves, within reach, and overlaps nothing', () => {
  const mappings = parseMappings(`555555554000-555555600000 r-xp 00000000 08:02 1 /bin/x
555555600000-555555700000 rw-p 00000000 00:00 0 [heap]
`);
  const low = 0x555555554000n;
  const at = findFreeRange(mappings, 0x10000, low, 0x555555600000n, REACH)!;
  expect(at + 0x10000n).toBeLessThanOrEqual(low);
  expect(0x555555600000n - at).toBeLessThanOrEqual(REACH);
});

test('with no room below, a range above is taken, clear of the heap that grows', () => {
  // A program linked at the bottom of the address space.
  const mappings = parseMappings(`00010000-00452000 r-xp 00000000 08:02 1 /bin/x
00452000-00552000 rw-p 00000000 00:00 0 [heap]
`);
  const at = findFreeRange(mappings, 0x10000, 0x10000n, 0x452000n, REACH)!;
  expect(at).toBeGreaterThan(0x552000n + 0x100_0000n);
  expect(at + 0x10000n - 0x10000n).toBeLessThanOrEqual(REACH);
});

test('where all of the reach is taken there is none', () => {
  const mappings = parseMappings('00010000-ffff0000 r-xp 00000000 08:02 1 /bin/x\n');
  expect(findFreeRange(mappings, 0x10000, 0x10000n, 0x20000n, 0x7000_0000n)).toBeUndefined();
});

test('a range around a point inside one large gap is found', () => {
  const mappings = parseMappings('555555554000-555555600000 r-xp 00000000 08:02 1 /bin/x\n');
  const point = 0x1000_0000_0000n;
  expect(findFreeRange(mappings, 0x100000, point, point, point)).toBe(point - 0x100000n);
});
