/** Prints the ids of every BPF program, link and map of the kernel, by bpf(2) alone. */

import { addressOf, SystemError, systemCall } from '../../../src/ffi/libc.js';

const SYS_BPF = 321;
const ENOENT = 2;
/** `enum bpf_cmd`: …_GET_NEXT_ID. */
const NEXT_ID = { programs: 11, maps: 12, links: 31 } as const;

/** union bpf_attr: start_id, next_id, open_flags. */
function ids(command: number): number[] {
  const found: number[] = [];
  for (const attr = new Uint32Array(42); ; attr[0] = attr[1]) {
    try {
      systemCall('bpf', SYS_BPF, command, addressOf(new Uint8Array(attr.buffer)), attr.byteLength);
    } catch (cause) {
      if (cause instanceof SystemError && cause.errno === ENOENT) return found;
      throw cause;
    }
    found.push(attr[1]);
  }
}

const all = Object.entries(NEXT_ID).map(([what, command]) => [what, ids(command)] as const);
console.log(JSON.stringify(Object.fromEntries(all)));
