import { expect, it } from 'vitest';
import { buildIdInNotes } from './notes.js';

function note(name: string, type: number, descriptor: Buffer, align: number): Buffer {
  const head = Buffer.alloc(12);
  head.writeUInt32LE(name.length, 0);
  head.writeUInt32LE(descriptor.length, 4);
  head.writeUInt32LE(type, 8);
  const padded = (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(-bytes.length & (align - 1))]);
  return padded(Buffer.concat([padded(Buffer.concat([head, Buffer.from(name, 'latin1')])), descriptor]));
}

const ID = Buffer.from('0123456789abcdef0123', 'hex');

it.each([4, 8])('the build-id behind other notes, aligned to %d', align => {
  const notes = [
    note('GNU\0', 1, Buffer.alloc(16), align),
    note('FDO\0', 3, Buffer.from('{"os":"de"}'), align),
    note('GNU\0', 5, Buffer.alloc(13), align),
  ];
  expect(buildIdInNotes(Buffer.concat([...notes, note('GNU\0', 3, ID, align)]), align)).toBe(
    ID.toString('hex'),
  );
  expect(buildIdInNotes(Buffer.concat(notes), align)).toBeUndefined();
});

it('no build-id where the note is cut short, empty or absurdly long', () => {
  expect(buildIdInNotes(note('GNU\0', 3, ID, 4).subarray(0, 24), 4)).toBeUndefined();
  expect(buildIdInNotes(note('GNU\0', 3, Buffer.alloc(0), 4), 4)).toBeUndefined();
  expect(buildIdInNotes(note('GNU\0', 3, Buffer.alloc(65), 4), 4)).toBeUndefined();
});
