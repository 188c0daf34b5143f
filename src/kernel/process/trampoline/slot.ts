/**
 * A slot: the piece of a code region that belongs to one target. Its metadata record, and behind it, by the kind of slot
 * (link/slot_plan.ts):
 *
 *     global   call the global trampoline, which finds the record by this call's return address
 *              the displaced instructions; a jump back behind them
 *     sled     nothing
 *     full     push rax; rax = the record; jump to the global full trampoline
 *              the displaced instructions; a jump back; the lists of programs
 *     direct   the target's own trampoline, which falls through to
 *              the displaced instructions; a jump back
 *     own      the lists; the displaced instructions; a jump back
 *              push rax; rax = the record; the target's own full trampoline
 *
 * Written byte by byte rather than with the assembler: a link writes thousands.
 */

import { BpfError } from '../../errno.js';
import { ISLAND_SIZE, type PatchSite, placeDisplaced, SHORT_PATCH_SIZE } from '../ftrace/patch_site.js';

export const CALL = 0xe8;
export const JMP = 0xe9;
const JMP_SHORT = 0xeb;
export const JMP_LENGTH = 5;
const PUSH_RAX = 0x50;
/** `lea rax, [rip + …]` without the distance, and all of it. */
const LEA_RAX = [0x48, 0x8d, 0x05] as const;
const LEA_LENGTH = 7;
const NOP = 0x90;

/** `call trampoline`. */
export const CALL_STUB_LENGTH = 5;
/** `push rax; lea rax, record`. */
export const RECORD_LOAD_LENGTH = 1 + LEA_LENGTH;
/** The same, and `jmp trampoline`. */
export const JUMP_STUB_LENGTH = RECORD_LOAD_LENGTH + JMP_LENGTH;

/** Bytes of the displaced instructions of `site` and the jump back. */
export function displacedSize({ displaced }: PatchSite): number {
  return displaced.bytes.length + (displaced.resumes ? JMP_LENGTH : 0);
}

/** Writes a `jmp` or `call` rel32 that stands at `at` and goes to `to`. Throws ERANGE where it does not reach. */
export function writeBranch(bytes: Uint8Array, offset: number, opcode: number, at: bigint, to: bigint): void {
  // User addresses have 47 bits: their distance is exact as a number, and quick.
  const distance = Number(to - at) - JMP_LENGTH;
  if (distance !== (distance | 0))
    throw new BpfError('ERANGE', `a jump from 0x${at.toString(16)} does not reach 0x${to.toString(16)}`);
  bytes[offset] = opcode;
  write32(bytes, offset + 1, distance);
}

function write32(bytes: Uint8Array, offset: number, value: number): void {
  for (let byte = 0; byte < 4; byte++) bytes[offset + byte] = value >> (8 * byte);
}

/** Writes the call of a global trampoline at `offset` of the slot at `address`. */
export function writeCallStub(slot: Uint8Array, offset: number, address: bigint, trampoline: bigint): void {
  writeBranch(slot, offset, CALL, address + BigInt(offset), trampoline);
}

/** Writes what a full trampoline begins with at `offset` of a slot, before it or before the jump to it. */
export function writeRecordLoad(slot: Uint8Array, offset: number): void {
  slot[offset] = PUSH_RAX;
  slot.set(LEA_RAX, offset + 1);
  write32(slot, offset + 1 + LEA_RAX.length, -(offset + RECORD_LOAD_LENGTH));
}

/** Writes what leads to a global full trampoline at `offset` of the slot at `address`. */
export function writeJumpStub(slot: Uint8Array, offset: number, address: bigint, trampoline: bigint): void {
  writeRecordLoad(slot, offset);
  const jump = offset + RECORD_LOAD_LENGTH;
  writeBranch(slot, jump, JMP, address + BigInt(jump), trampoline);
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

/** Where a patch site leads: the slot's entry, or for a nop sled without one the trampoline. */
export interface PatchTarget {
  readonly entry: bigint;
  /** A nop sled calls this. */
  readonly sledCalls: bigint | undefined;
}

/**
 * The bytes that replace the start of a patch site: a jump to the slot's code or to the site's island, or a call of a
 * global trampoline.
 */
export function patchBytes(site: PatchSite, siteAddress: bigint, to: PatchTarget): Uint8Array {
  // `findPatchSites` chose the island within reach.
  if (site.island !== undefined)
    return Uint8Array.of(JMP_SHORT, site.island.address - (site.address + SHORT_PATCH_SIZE));
  const bytes = new Uint8Array(site.kind === 'nop-sled' ? site.length : JMP_LENGTH).fill(NOP);
  if (to.sledCalls === undefined) writeBranch(bytes, 0, JMP, siteAddress, to.entry);
  else writeBranch(bytes, 0, CALL, siteAddress, to.sledCalls);
  return bytes;
}

/** The bytes that replace the padding of an island at `islandAddress`: a jump to the slot's code. */
export function islandBytes(islandAddress: bigint, to: PatchTarget): Uint8Array {
  const bytes = new Uint8Array(ISLAND_SIZE);
  writeBranch(bytes, 0, JMP, islandAddress, to.entry);
  return bytes;
}
