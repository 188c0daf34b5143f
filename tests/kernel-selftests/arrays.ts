/** Test programs of verifier/*.c: arrays of instructions, with the maps that their harness would put into them. */

import { decodeProgram } from '../../src/bpf/encoding.js';
import { type BpfInsn, LD_IMM64, loadImmediate64, slotsOf } from '../../src/bpf/instruction.js';
import { MAP_FLAG, MAP_TYPE } from '../../src/bpf/map_type.js';
import { Btf } from '../../src/btf/btf.js';
import { BtfBuilder } from '../../src/btf/builder.js';
import { BpfError } from '../../src/kernel/errno.js';
import type { MapSpec } from '../../src/kernel/process/verifier/environment.js';
import type { Case } from './annotated.js';

/** A line that arrays.c prints. */
interface Dumped {
  readonly name: string;
  /** 1 accepted, 2 refused, 3 accepted with a log that is looked at. */
  readonly result: number;
  readonly message: string;
  readonly type: number;
  readonly attach: number;
  readonly flags: number;
  readonly functions: number;
  readonly kfuncs: Readonly<Record<string, string>>;
  /** By the map's name: the slots that are given it. */
  readonly maps: Readonly<Record<string, readonly number[]>>;
  readonly insns: string;
}

/** `enum bpf_prog_type`, as sections write them. */
const SECTIONS = [
  'socket',
  'socket',
  'kprobe',
  'tc',
  'action',
  'tracepoint',
  'xdp',
  'perf_event',
  'cgroup/skb',
  'cgroup/sock',
  'lwt_in',
  'lwt_out',
  'lwt_xmit',
  'sockops',
  'sk_skb',
  'cgroup/dev',
  'sk_msg',
  'raw_tp',
  'cgroup/sock_addr',
  'lwt_seg6local',
  'lirc_mode2',
  'sk_reuseport',
  'flow_dissector',
  'cgroup/sysctl',
  'raw_tp.w',
  'cgroup/sockopt',
  'tracing',
  'struct_ops',
  'freplace',
  'lsm',
  'sk_lookup',
  'syscall',
  'netfilter',
];
/** BPF_TRACE_RAW_TP, …: attach types of tracing programs. */
const TRACING: Readonly<Record<number, string>> = {
  23: 'tp_btf',
  24: 'fentry',
  25: 'fexit',
  26: 'fmod_ret',
  28: 'iter',
};

const FLAGS: readonly (readonly [number, string])[] = [
  [1 << 1, 'BPF_F_STRICT_ALIGNMENT'],
  [1 << 3, 'BPF_F_TEST_STATE_FREQ'],
  [1 << 4, 'BPF_F_SLEEPABLE'],
];

const lockTypes = ((): { btf: Btf; value: number } => {
  const b = new BtfBuilder();
  const int = b.addInt('int', 4, { signed: true });
  const lock = b.addStruct('bpf_spin_lock', 4, [{ name: 'val', type: int, bitOffset: 0, bitSize: 0 }]);
  const value = b.addStruct('val', 8, [
    { name: 'cnt', type: int, bitOffset: 0, bitSize: 0 },
    { name: 'l', type: lock, bitOffset: 32, bitSize: 0 },
  ]);
  return { btf: Btf.parse(b.build()), value };
})();

/** Bytes of the harness's larger value: a number and an array of 11. */
const WIDE = 48;

/** Type, key, value, entries, and the rest, of the maps by the harness's names. */
const MAPS: Readonly<Record<string, readonly [number, number, number, number, Partial<MapSpec>?]>> = {
  map_hash_8b: [MAP_TYPE.HASH, 8, 8, 1],
  map_hash_48b: [MAP_TYPE.HASH, 8, WIDE, 1],
  map_hash_16b: [MAP_TYPE.HASH, 8, 16, 1],
  map_array_48b: [MAP_TYPE.ARRAY, 4, WIDE, 1],
  map_sockmap: [MAP_TYPE.SOCKMAP, 4, 4, 1],
  map_sockhash: [MAP_TYPE.SOCKHASH, 4, 4, 1],
  map_xskmap: [MAP_TYPE.XSKMAP, 4, 4, 1],
  map_stacktrace: [MAP_TYPE.STACK_TRACE, 4, 8, 1],
  prog1: [MAP_TYPE.PROG_ARRAY, 4, 4, 4],
  prog2: [MAP_TYPE.PROG_ARRAY, 4, 4, 8],
  map_in_map: [
    MAP_TYPE.ARRAY_OF_MAPS,
    4,
    4,
    1,
    { innerMap: { id: 99, name: 'inner', type: MAP_TYPE.ARRAY, keySize: 4, valueSize: 4, maxEntries: 1 } },
  ],
  cgroup_storage: [MAP_TYPE.CGROUP_STORAGE, 16, 64, 0],
  percpu_cgroup_storage: [MAP_TYPE.PERCPU_CGROUP_STORAGE, 16, 64, 0],
  map_spin_lock: [MAP_TYPE.ARRAY, 4, 8, 1, { btf: lockTypes.btf, btfValueTypeId: lockTypes.value }],
  map_array_ro: [MAP_TYPE.ARRAY, 4, WIDE, 1, { flags: MAP_FLAG.RDONLY_PROG }],
  map_array_wo: [MAP_TYPE.ARRAY, 4, WIDE, 1, { flags: MAP_FLAG.WRONLY_PROG }],
  map_array_small: [MAP_TYPE.ARRAY, 4, 1, 1],
  sk_storage_map: [MAP_TYPE.SK_STORAGE, 4, 8, 0],
  map_event_output: [MAP_TYPE.PERF_EVENT_ARRAY, 4, 4, 1],
  map_reuseport_array: [MAP_TYPE.REUSEPORT_SOCKARRAY, 4, 8, 1],
  map_ringbuf: [MAP_TYPE.RINGBUF, 0, 0, 4096],
};

/** Names of maps whose values hold what a process can't have. */
const IMPOSSIBLE: Readonly<Record<string, string>> = {
  map_timer: 'a map with a timer',
  map_kptr: 'a map with pointers of the kernel',
};

export function arrayCases(dump: string): Case[] {
  return dump
    .split('\n')
    .filter(line => line !== '')
    .map(line => caseOf(JSON.parse(line) as Dumped));
}

function caseOf(dumped: Dumped): Case {
  const names = Object.keys(dumped.maps);
  const specs = new Map(
    names.flatMap((name, index): [string, MapSpec][] => {
      const shape = MAPS[name];
      if (shape === undefined) return [];
      const [type, keySize, valueSize, maxEntries, more] = shape;
      return [[name, { id: index + 1, name, type, keySize, valueSize, maxEntries, ...more }]];
    }),
  );
  const base: Case = {
    name: dumped.name,
    section:
      dumped.type === 26 ? (TRACING[dumped.attach] ?? 'tracing') : (SECTIONS[dumped.type] ?? 'unknown'),
    accepted: dumped.result !== 2,
    messages: dumped.message === '' ? [] : dumped.message.split('\t'),
    flags: new Set(FLAGS.filter(([bit]) => dumped.flags & bit).map(([, name]) => name)),
    insns: [],
    maps: [...specs.values()],
  };
  const impossible = names.map(name => IMPOSSIBLE[name]).find(reason => reason !== undefined);
  if (impossible !== undefined) return { ...base, unlinked: impossible };
  const [kfunc] = Object.values(dumped.kfuncs);
  if (kfunc !== undefined) return { ...base, unlinked: `it calls ${kfunc}, a function that there is not` };
  if (dumped.functions > 0) return { ...base, unlinked: 'has types of its own, which are not read here' };
  return { ...base, ...decoded(dumped, specs) };
}

/** The instructions, with the maps' ids in them; a program that can't be decoded is refused by that. */
function decoded({ insns: hex, maps }: Dumped, specs: ReadonlyMap<string, MapSpec>): Partial<Case> {
  let insns: BpfInsn[];
  try {
    insns = decodeProgram(Buffer.from(hex, 'hex'));
  } catch (thrown) {
    if (!(thrown instanceof BpfError)) throw thrown;
    return { undecodable: thrown.message };
  }
  const idAt = new Map<number, number>();
  for (const [name, slots] of Object.entries(maps))
    for (const slot of slots) idAt.set(slot, specs.get(name)!.id);
  let slot = 0;
  return {
    insns: insns.map(insn => {
      const id = idAt.get(slot);
      slot += slotsOf(insn);
      if (id === undefined || insn.opcode !== LD_IMM64) return insn;
      const offset = BigInt.asUintN(64, insn.imm64 ?? 0n) >> 32n;
      return loadImmediate64(insn.dst, insn.src, (offset << 32n) | BigInt(id));
    }),
  };
}
