/**
 * A slot: the piece of a code region that belongs to one target. Its metadata record, and for a target whose first
 * instructions were moved the stub that its patch site jumps to:
 *
 *     record      40 bytes, kfunc_md/record.ts
 *     call        the global trampoline, which finds the record by this call's return address
 *     …           the displaced instructions
 *     jmp         back behind them
 *     lists       kfunc_md/lists.ts, for a function that has more than plain fentry programs
 *
 * Written byte by byte rather than with the assembler: a link writes thousands.
 */

import { BpfError } from '../../errno.js';
import { ISLAND_SIZE, type PatchSite, placeDisplaced, SHORT_PATCH_SIZE } from '../ftrace/patch_site.js';
import { RECORD } from '../kfunc_md/record.js';
import { CALL_LENGTH } from './global.js';

export const CALL = 0xe8;
export const JMP = 0xe9;
const JMP_SHORT = 0xeb;
export const JMP_LENGTH = 5;
/** Where a slot's displaced instructions begin. */
export const DISPLACED = RECORD.size + CALL_LENGTH;

/** Bytes of a slot for `site`. */
export function slotSize(site: PatchSite): number {
  if (site.kind === 'nop-sled') return RECORD.size;
  return DISPLACED + site.displaced.bytes.length + (site.displaced.resumes ? JMP_LENGTH : 0);
}

/** Writes a `jmp` or `call` rel32 that stands at `at` and goes to `to`. Throws ERANGE where it does not reach. */
export function writeBranch(bytes: Uint8Array, offset: number, opcode: number, at: bigint, to: bigint): void {
  // User addresses have 47 bits: their distance is exact as a number, and quick.
  const distance = Number(to - at) - JMP_LENGTH;
  if (distance !== (distance | 0))
    throw new BpfError('ERANGE', `a jump from 0x${at.toString(16)} does not reach 0x${to.toString(16)}`);
  bytes[offset] = opcode;
  for (let byte = 0; byte < 4; byte++) bytes[offset + 1 + byte] = distance >> (8 * byte);
}

/** Writes the code of a slot behind its record. `bias` is the load bias of the site's module. */
export function writeSlotCode(
  slot: Uint8Array,
  slotAddress: bigint,
  trampoline: bigint,
  site: PatchSite,
  bias: bigint,
): void {
  if (site.kind === 'nop-sled') return;
  writeBranch(slot, RECORD.size, CALL, slotEntry(slotAddress), trampoline);
  writeDisplaced(slot, DISPLACED, slotAddress, site, bias);
}

/** Writes the displaced instructions at `offset` of code that stands at `address`, and the jump back. */
export function writeDisplaced(
  code: Uint8Array,
  offset: number,
  address: bigint,
  site: PatchSite,
  bias: bigint,
): void {
  const at = address + BigInt(offset);
  const displaced = placeDisplaced(site, at, bias);
  code.set(displaced, offset);
  if (!site.displaced.resumes) return;
  const back = offset + displaced.length;
  writeBranch(code, back, JMP, address + BigInt(back), bias + BigInt(site.displaced.resumeAt));
}

/** Where a thread that comes through a patch site without a nop sled enters the slot at `slotAddress`. */
export function slotEntry(slotAddress: bigint): bigint {
  return slotAddress + BigInt(RECORD.size);
}

/**
 * The bytes that replace the start of a patch site: a jump to the slot's stub or to the site's island, or a call of a
 * global trampoline.
 */
export function patchBytes(
  site: PatchSite,
  siteAddress: bigint,
  slotAddress: bigint,
  trampoline: bigint,
): Uint8Array {
  // `findPatchSites` chose the island within reach.
  if (site.island !== undefined)
    return Uint8Array.of(JMP_SHORT, site.island.address - (site.address + SHORT_PATCH_SIZE));
  const nopSled = site.kind === 'nop-sled';
  const bytes = new Uint8Array(nopSled ? site.length : JMP_LENGTH).fill(NOP);
  writeBranch(bytes, 0, nopSled ? CALL : JMP, siteAddress, nopSled ? trampoline : slotEntry(slotAddress));
  return bytes;
}

/** The bytes that replace the padding of an island at `islandAddress`: a jump to the slot's stub. */
export function islandBytes(islandAddress: bigint, slotAddress: bigint): Uint8Array {
  const bytes = new Uint8Array(ISLAND_SIZE);
  writeBranch(bytes, 0, JMP, islandAddress, slotEntry(slotAddress));
  return bytes;
}

const NOP = 0x90;
