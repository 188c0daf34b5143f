/**
 * Unpacks the kernel's ELF file from a bzImage (Documentation/arch/x86/boot.rst). qemu starts that directly through
 * its PVH entry, which spares the guest unpacking it under emulation: up to two seconds of each boot.
 */

import { spawnSync } from 'node:child_process';

const SETUP_SECTORS = 0x1f1;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const SECTOR_BYTES = 512;
/** The build appends the unpacked length to the payload. */
const LENGTH_BYTES = 4;
const LARGEST = 1 << 28;

/** What unpacks each kind of payload, by its first bytes. */
const UNPACKERS = [
  { magic: '28b52ffd', command: ['zstd', '-dc'] },
  { magic: '02214c18', command: ['lz4', '-dc'] },
  { magic: 'fd377a58', command: ['xz', '-dc'] },
  { magic: '1f8b', command: ['gzip', '-dc'] },
];

/** The ELF file, or `undefined` where this machine has nothing to unpack it with. */
export function unpackVmlinux(bzImage: Buffer): Buffer | undefined {
  const setupBytes = ((bzImage[SETUP_SECTORS] || 4) + 1) * SECTOR_BYTES;
  const start = setupBytes + bzImage.readUInt32LE(PAYLOAD_OFFSET);
  const payload = bzImage.subarray(start, start + bzImage.readUInt32LE(PAYLOAD_LENGTH));
  const unpacker = UNPACKERS.find(({ magic }) => payload.toString('hex', 0, magic.length / 2) === magic);
  if (unpacker === undefined) return undefined;
  const [command, ...args] = unpacker.command;
  const { stdout } = spawnSync(command, args, {
    input: payload.subarray(0, payload.length - LENGTH_BYTES),
    maxBuffer: LARGEST,
  });
  const elf = stdout?.toString('latin1', 0, 4) === '\x7fELF';
  return elf ? stdout : undefined;
}
