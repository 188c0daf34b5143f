/**
 * Finds everything in a module's code that may branch to a marked address. Two steps: every byte of the code is
 * taken as the start of a branch (fast, and finds branches that are none), then each find is checked by decoding
 * the function that it stands in from its start. Jump tables and code pointers in data are not seen here.
 */

import { Flow } from '../../../x86/decoder.js';
import type { CodeMap } from './code_map.js';
import type { CodeSection } from './patch_site.js';
import type { SiteBits } from './site_bits.js';

/** What a find looks like. `address`: an absolute 32-bit address in an instruction of a file at a fixed address. */
export type BranchKind = 'jump' | 'call' | 'lea' | 'transaction' | 'address';

/** Bytes that look like a branch to a marked address. Addresses are file virtual addresses. */
export interface BranchCandidate {
  readonly kind: BranchKind;
  /** Where the opcode stands (for `address`: the 32-bit field); prefixes stand before it. */
  readonly address: number;
  /** Behind its last byte. */
  readonly end: number;
  readonly target: number;
}

// What a byte may begin, when every byte is taken for an opcode.
const NONE = 0;
const CALL_REL32 = 1;
const JMP_REL32 = 2;
const TWO_BYTE = 3; // 0f 80..8f: jcc rel32
const REL8 = 4; // 70..7f jcc, eb jmp, e0..e3 loop and jrcxz
const LEA = 5; // 8d, mod 00 rm 101: lea reg, [rip + disp32]
const GROUP5 = 6; // ff e0..e7: jmp reg
const XBEGIN = 7; // c7 f8 rel32

const OPENING = new Uint8Array(256);
OPENING[0xe8] = CALL_REL32;
OPENING[0xe9] = JMP_REL32;
OPENING[0x0f] = TWO_BYTE;
OPENING.fill(REL8, 0x70, 0x80);
OPENING[0xeb] = REL8;
OPENING.fill(REL8, 0xe0, 0xe4);
OPENING[0x8d] = LEA;
OPENING[0xff] = GROUP5;
OPENING[0xc7] = XBEGIN;

/** What the second byte must be: `byte & mask === value`. */
const SECOND_MASK = Uint8Array.of(0, 0, 0, 0xf0, 0, 0xc7, 0xf8, 0xff);
const SECOND_VALUE = Uint8Array.of(0, 0, 0, 0x80, 0, 0x05, 0xe0, 0xf8);
/** Bytes from the opcode to the end of the distance. */
const LENGTHS = Uint8Array.of(1, 5, 5, 6, 2, 6, 2, 6);
const KINDS: readonly BranchKind[] = ['jump', 'call', 'jump', 'jump', 'jump', 'lea', 'jump', 'transaction'];

/** What `scanBranches` found. */
export interface BranchScan {
  /** Branches and addresses of code that may go inside a site. */
  readonly inside: BranchCandidate[];
  /** Jumps (not calls) that may go to a function's entry. */
  readonly toEntry: BranchCandidate[];
  /** Addresses that may hold a jump to a register: what a `switch` ends with. */
  readonly registerJumps: number[];
}

/**
 * Scans every byte of `section`. `inside` marks the addresses where nothing may branch to, `entries` those of
 * function entries; both are of the same sections. A few ns a byte.
 */
export function scanBranches(
  section: CodeSection,
  inside: SiteBits,
  entries: SiteBits,
  into: BranchScan,
): void {
  const { bytes, address } = section;
  for (let o = -1; ; ) {
    o = nextFind(bytes, o + 1, address - inside.base, inside.words, entries.words, inside.size);
    if (o < 0) return;
    const opening = OPENING[bytes[o]];
    if (opening === GROUP5) {
      into.registerJumps.push(address + o);
      continue;
    }
    const kind = KINDS[opening];
    const end = o + LENGTHS[opening];
    const distance = opening === REL8 ? (bytes[end - 1] << 24) >> 24 : int32(bytes, end - 4);
    const candidate = { kind, address: address + o, end: address + end, target: address + end + distance };
    if (inside.has(candidate.target)) into.inside.push(candidate);
    if (kind === 'jump' && entries.has(candidate.target)) into.toEntry.push(candidate);
  }
}

/**
 * The hot loop: the next offset from `from` on that `scanBranches` wants to see, or -1. `start` is the section's
 * first address and `size` the number of addresses, in the numbering of the two bit arrays.
 */
function nextFind(
  bytes: Uint8Array,
  from: number,
  start: number,
  inside: Uint32Array,
  entries: Uint32Array,
  size: number,
): number {
  const { length } = bytes;
  for (let o = from; o + 1 < length; o++) {
    const opening = OPENING[bytes[o]];
    if (opening === NONE) continue;
    let target: number;
    if (opening === REL8) target = (start + o + 2 + ((bytes[o + 1] << 24) >> 24)) | 0;
    else {
      if ((bytes[o + 1] & SECOND_MASK[opening]) !== SECOND_VALUE[opening]) continue;
      if (opening === GROUP5) return o;
      const end = o + LENGTHS[opening];
      if (end > length) continue;
      target =
        (start +
          end +
          (bytes[end - 4] | (bytes[end - 3] << 8) | (bytes[end - 2] << 16) | (bytes[end - 1] << 24))) |
        0;
    }
    if (target >>> 0 >= size) continue;
    const bit = 1 << (target & 31);
    if (inside[target >>> 5] & bit) return o;
    if (opening !== CALL_REL32 && entries[target >>> 5] & bit) return o;
  }
  return -1;
}

/** Finds 32-bit absolute addresses of marked bytes in the instructions of a file at a fixed address. */
export function scanAbsolute(section: CodeSection, inside: SiteBits, into: BranchCandidate[]): void {
  const { bytes, address } = section;
  const { words, size, base } = inside;
  // In 32-bit integers throughout, for every byte comes by here; of an address beyond, the low half is looked for.
  const low = base | 0;
  let value = 0;
  for (let o = 0; o < bytes.length; o++) {
    value = (value >>> 8) | (bytes[o] << 24);
    const target = (value - low) | 0;
    if (target >>> 0 >= size || !((words[target >>> 5] >>> (target & 31)) & 1)) continue;
    if (o >= 3)
      into.push({ kind: 'address', address: address + o - 3, end: address + o + 1, target: base + target });
  }
}

/** `real`: an instruction of the program. `none`: bytes inside other instructions. `undecided`: it can't be told. */
export type Verdict = 'real' | 'none' | 'undecided';

/**
 * Decodes from the start of the function around each candidate and says whether the candidate is an instruction,
 * in the order given. Candidates of one function are decoded together.
 */
export function verifyBranches(map: CodeMap, candidates: readonly BranchCandidate[]): Verdict[] {
  const verdicts: Verdict[] = new Array(candidates.length);
  const order = candidates.map((_, i) => i).sort((a, b) => candidates[a].end - candidates[b].end);
  let start = -1;
  // The instruction decoded last, and the address behind it.
  let current = 0;
  let at = 0;
  let broken = false;
  for (const i of order) {
    const candidate = candidates[i];
    const from = decodingStart(map, candidate.address);
    if (from === undefined) {
      verdicts[i] = 'undecided';
      continue;
    }
    if (from !== start) {
      start = at = from;
      broken = false;
    }
    const decoder = map.decoder(map.section(from)!);
    // On to the instruction that holds the candidate's last byte.
    while (!broken && at < candidate.end) {
      current = at;
      broken = decoder.decode(at) === Flow.invalid;
      at = decoder.end;
    }
    verdicts[i] = broken ? 'undecided' : isAt(map, candidate, current) ? 'real' : 'none';
  }
  return verdicts;
}

/** Where decoding must start to be in step at `address`; `undefined` where no function is known to reach there. */
function decodingStart(map: CodeMap, address: number): number | undefined {
  const start = map.startBelow(address);
  if (start < 0) return undefined;
  const frame = map.frame(address);
  if (frame) return start;
  // Behind the end of what the unwind table covers there may be data, or code that nothing names.
  return map.frame(start) ? undefined : start;
}

/** True where the instruction at `address` is the candidate. */
function isAt(map: CodeMap, candidate: BranchCandidate, address: number): boolean {
  const decoder = map.decoder(map.section(address)!);
  const flow = decoder.decode(address);
  // A distance that only looks like an address is no immediate.
  if (candidate.kind === 'address') {
    return flow === Flow.next && decoder.immediateOffset() === candidate.address - address;
  }
  if (decoder.end !== candidate.end) return false;
  switch (flow) {
    case Flow.jump:
    case Flow.jumpIf:
    case Flow.loop:
    case Flow.call:
    case Flow.transaction:
      return decoder.branchTarget() === candidate.target;
    default:
      return decoder.ripOffset >= 0 && decoder.memoryTarget() === candidate.target;
  }
}

function int32(bytes: Uint8Array, o: number): number {
  return bytes[o] | (bytes[o + 1] << 8) | (bytes[o + 2] << 16) | (bytes[o + 3] << 24);
}
