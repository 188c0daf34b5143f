/**
 * The helpers that a tracing program may call, and what it must hand them (the kernel's `bpf_func_proto`), with the
 * kernel's numbers and meanings.
 */

import { helperName } from '../../../bpf/helpers.js';
import { MAP_TYPE } from '../../../bpf/map_type.js';

/** What a helper's argument must be. */
export type ArgumentType =
  /** a map, by `ldMap` or out of a map of maps */
  | 'map'
  /** memory that holds a key, or a value, of that map */
  | 'key'
  | 'value'
  | 'valueOrNull'
  /** memory for a value of that map, which the helper writes */
  | 'uninitValue'
  /** the program's context, unchanged */
  | 'ctx'
  /** a number */
  | 'anything'
  /** an address that may be anything at all: the helper finds out */
  | 'address'
  /** memory that is read, as many bytes as the next argument says */
  | 'mem'
  | 'memOrNull'
  /** memory that is written, as many bytes as the next argument says */
  | 'uninitMem'
  | 'uninitMemOrNull'
  | 'size'
  | 'sizeOrZero'
  /** a constant: bytes to allocate */
  | 'allocSize'
  /** 8 bytes that the helper writes, whatever it returns */
  | 'long'
  /** a string in a map that nobody changes any more */
  | 'constString'
  /** a subprogram to call back */
  | 'func'
  /** what the callback is handed: a pointer to the stack, or 0 */
  | 'callbackContext'
  /** a spin lock in a map's value */
  | 'lock'
  /** the constant 0: the thread that runs */
  | 'currentTask'
  /** memory that `ringbuf_reserve` gave, which is given back */
  | 'reserved'
  /** 16 bytes of stack that hold a dynptr, become one, or stop being one */
  | 'dynptr'
  | 'uninitDynptr'
  | 'uninitRingbufDynptr'
  | 'releaseDynptr';

export interface HelperPrototype {
  readonly name: string;
  /** r1, r2, … */
  readonly args: readonly ArgumentType[];
  readonly returns:
    | 'integer'
    | 'void'
    /** a length of at most the size handed in, or a negative errno */
    | 'length'
    | 'valueOrNull'
    | 'reservedOrNull'
    | 'dynptrMemoryOrNull';
  /** map types that the `map` argument may have */
  readonly maps?: readonly number[];
  readonly sleepable?: true;
}

const M = MAP_TYPE;
const PER_CPU = [M.PERCPU_ARRAY, M.PERCPU_HASH, M.LRU_PERCPU_HASH];
const KEYED = [M.HASH, M.ARRAY, M.LRU_HASH, M.LPM_TRIE, ...PER_CPU];
const MAPS_OF_MAPS = [M.ARRAY_OF_MAPS, M.HASH_OF_MAPS];

type Row = readonly [
  id: number,
  name: string,
  args: readonly ArgumentType[],
  returns: HelperPrototype['returns'],
  maps?: readonly number[],
];

const ROWS: readonly Row[] = [
  [1, 'map_lookup_elem', ['map', 'key'], 'valueOrNull', [...KEYED, ...MAPS_OF_MAPS]],
  [2, 'map_update_elem', ['map', 'key', 'value', 'anything'], 'integer', KEYED],
  [3, 'map_delete_elem', ['map', 'key'], 'integer', KEYED],
  [4, 'probe_read', ['uninitMem', 'sizeOrZero', 'address'], 'integer'],
  [5, 'ktime_get_ns', [], 'integer'],
  [6, 'trace_printk', ['mem', 'size'], 'integer'],
  [7, 'get_prandom_u32', [], 'integer'],
  [8, 'get_smp_processor_id', [], 'integer'],
  [12, 'tail_call', ['ctx', 'map', 'anything'], 'integer', [M.PROG_ARRAY]],
  [14, 'get_current_pid_tgid', [], 'integer'],
  [15, 'get_current_uid_gid', [], 'integer'],
  [16, 'get_current_comm', ['uninitMem', 'size'], 'integer'],
  [25, 'perf_event_output', ['ctx', 'map', 'anything', 'mem', 'sizeOrZero'], 'integer', [M.PERF_EVENT_ARRAY]],
  [27, 'get_stackid', ['ctx', 'map', 'anything'], 'integer', [M.STACK_TRACE]],
  [45, 'probe_read_str', ['uninitMem', 'sizeOrZero', 'address'], 'length'],
  [58, 'override_return', ['ctx', 'anything'], 'integer'],
  [67, 'get_stack', ['ctx', 'uninitMem', 'sizeOrZero', 'anything'], 'length'],
  [87, 'map_push_elem', ['map', 'value', 'anything'], 'integer', [M.QUEUE, M.STACK, M.BLOOM_FILTER]],
  [88, 'map_pop_elem', ['map', 'uninitValue'], 'integer', [M.QUEUE, M.STACK]],
  [89, 'map_peek_elem', ['map', 'uninitValue'], 'integer', [M.QUEUE, M.STACK, M.BLOOM_FILTER]],
  [93, 'spin_lock', ['lock'], 'void'],
  [94, 'spin_unlock', ['lock'], 'void'],
  [105, 'strtol', ['mem', 'size', 'anything', 'long'], 'integer'],
  [106, 'strtoul', ['mem', 'size', 'anything', 'long'], 'integer'],
  [112, 'probe_read_user', ['uninitMem', 'sizeOrZero', 'address'], 'integer'],
  [113, 'probe_read_kernel', ['uninitMem', 'sizeOrZero', 'address'], 'integer'],
  [114, 'probe_read_user_str', ['uninitMem', 'sizeOrZero', 'address'], 'length'],
  [115, 'probe_read_kernel_str', ['uninitMem', 'sizeOrZero', 'address'], 'length'],
  [118, 'jiffies64', [], 'integer'],
  [125, 'ktime_get_boot_ns', [], 'integer'],
  [130, 'ringbuf_output', ['map', 'mem', 'sizeOrZero', 'anything'], 'integer', [M.RINGBUF]],
  [131, 'ringbuf_reserve', ['map', 'allocSize', 'anything'], 'reservedOrNull', [M.RINGBUF]],
  [132, 'ringbuf_submit', ['reserved', 'anything'], 'void'],
  [133, 'ringbuf_discard', ['reserved', 'anything'], 'void'],
  [134, 'ringbuf_query', ['map', 'anything'], 'integer', [M.RINGBUF]],
  [148, 'copy_from_user', ['uninitMem', 'sizeOrZero', 'address'], 'integer'],
  [
    156,
    'task_storage_get',
    ['map', 'currentTask', 'valueOrNull', 'anything'],
    'valueOrNull',
    [M.TASK_STORAGE],
  ],
  [157, 'task_storage_delete', ['map', 'currentTask'], 'integer', [M.TASK_STORAGE]],
  [160, 'ktime_get_coarse_ns', [], 'integer'],
  [
    164,
    'for_each_map_elem',
    ['map', 'func', 'callbackContext', 'anything'],
    'integer',
    [M.HASH, M.ARRAY, M.LRU_HASH, ...PER_CPU],
  ],
  [165, 'snprintf', ['uninitMemOrNull', 'sizeOrZero', 'constString', 'memOrNull', 'sizeOrZero'], 'integer'],
  [173, 'get_func_ip', ['ctx'], 'integer'],
  [174, 'get_attach_cookie', ['ctx'], 'integer'],
  [177, 'trace_vprintk', ['mem', 'size', 'memOrNull', 'sizeOrZero'], 'integer'],
  [181, 'loop', ['anything', 'func', 'callbackContext', 'anything'], 'integer'],
  [182, 'strncmp', ['mem', 'size', 'constString'], 'integer'],
  [183, 'get_func_arg', ['ctx', 'anything', 'long'], 'integer'],
  [184, 'get_func_ret', ['ctx', 'long'], 'integer'],
  [185, 'get_func_arg_cnt', ['ctx'], 'integer'],
  [195, 'map_lookup_percpu_elem', ['map', 'key', 'anything'], 'valueOrNull', PER_CPU],
  [197, 'dynptr_from_mem', ['mem', 'sizeOrZero', 'anything', 'uninitDynptr'], 'integer'],
  [
    198,
    'ringbuf_reserve_dynptr',
    ['map', 'anything', 'anything', 'uninitRingbufDynptr'],
    'integer',
    [M.RINGBUF],
  ],
  [199, 'ringbuf_submit_dynptr', ['releaseDynptr', 'anything'], 'void'],
  [200, 'ringbuf_discard_dynptr', ['releaseDynptr', 'anything'], 'void'],
  [201, 'dynptr_read', ['uninitMem', 'sizeOrZero', 'dynptr', 'anything', 'anything'], 'integer'],
  [202, 'dynptr_write', ['dynptr', 'anything', 'mem', 'sizeOrZero', 'anything'], 'integer'],
  [203, 'dynptr_data', ['dynptr', 'anything', 'allocSize'], 'dynptrMemoryOrNull'],
  [208, 'ktime_get_tai_ns', [], 'integer'],
];

const PROTOTYPES: ReadonlyMap<number, HelperPrototype> = new Map(
  ROWS.map(([id, name, args, returns, maps]) => [
    id,
    {
      name: `bpf_${name}`,
      args,
      returns,
      ...(maps && { maps }),
      ...(id === 148 && { sleepable: true as const }),
    },
  ]),
);

/** The prototype of helper `id`; `undefined` for one that tracing programs can't call here. */
export function prototypeOf(id: number): HelperPrototype | undefined {
  return PROTOTYPES.get(id);
}

const TRACE_PRINTK = 6;

/** How many of r1 to r5 helper `id` reads at most; `undefined` where any may be. */
export function argumentCountOf(id: number): number | undefined {
  return id === TRACE_PRINTK ? undefined : PROTOTYPES.get(id)?.args.length;
}

/** The helpers that exist here, by number. */
export function prototypes(): ReadonlyMap<number, HelperPrototype> {
  return PROTOTYPES;
}

const NO_TASK =
  'a process has no task_struct: use bpf_get_current_pid_tgid, bpf_get_current_comm or task storage';
const NO_THREAD = 'no thread of ours runs in the process that could call back when a timer expires';
const NO_PACKET = 'a traced function has no packet and no socket';
/** Names of the network's helpers. */
const OF_NETWORK =
  /^bpf_(skb|skc?|xdp|tcp|msg|lwt|l3|l4|csum|sock|redirect|fib|[gs]etsockopt$)(_|$)|^bpf_(clone_redirect|bind|set_hash|get_hash_recalc|get_listener_sock|get_socket|load_hdr|store_hdr|reserve_hdr)/;

/** Helpers that a live process can't have, and why: what to tell people. */
const IMPOSSIBLE: ReadonlyMap<number, string> = new Map([
  [35, NO_TASK],
  [158, NO_TASK],
  [141, NO_TASK],
  [175, NO_TASK],
  [180, NO_TASK],
  [191, NO_TASK],
  [169, NO_THREAD],
  [170, NO_THREAD],
  [171, NO_THREAD],
  [172, NO_THREAD],
  [36, 'writing into the memory of a traced process is not for a tracing program'],
  [149, 'values are printed by type where they are read, in the reader: send the value'],
  [153, 'a process has no per-CPU variables'],
  [154, 'a process has no per-CPU variables'],
  [176, 'branch records are the kernel’s alone'],
  [22, 'hardware counters are the kernel’s alone'],
  [55, 'hardware counters are the kernel’s alone'],
  [109, 'a traced process sends itself no signals on our behalf'],
  [117, 'a traced process sends itself no signals on our behalf'],
  [209, 'user ring buffers are not supported: write into a map'],
]);

/** Why a live process can't have helper `id`, where it is known to be impossible. */
export function whyImpossible(id: number): string | undefined {
  return IMPOSSIBLE.get(id) ?? (OF_NETWORK.test(helperName(id) ?? '') ? NO_PACKET : undefined);
}
