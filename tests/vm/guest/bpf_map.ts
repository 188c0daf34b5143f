/** Creates an array map with bpf(2) through the project's own system calls, and prints what came of it. */

import { closeSync } from 'node:fs';
import { addressOf, systemCall } from '../../../src/ffi/libc.js';

const SYS_BPF = 321;
const BPF_MAP_CREATE = 0;
const BPF_MAP_TYPE_ARRAY = 2;

// map_type, key_size, value_size, max_entries, map_flags: the first fields of union bpf_attr.
const attributes = new Uint32Array([BPF_MAP_TYPE_ARRAY, 4, 8, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
const bytes = new Uint8Array(attributes.buffer);
const fd = Number(systemCall('bpf', SYS_BPF, BPF_MAP_CREATE, addressOf(bytes), bytes.length));
closeSync(fd);
console.log(JSON.stringify({ fd }));
