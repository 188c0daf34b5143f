/**
 * Maps of the kernel (`BPF_MAP_…`). Values of per-CPU maps are one after the other, as bpf(2) has them.
 */

import { isPerCpu, MAP_FLAG, MAP_TYPE, mapTypeName } from '../../bpf/map_type.js';
import type { Btf } from '../../btf/btf.js';
import { MAP, mmap, munmap, PROT, SystemError, viewMemory } from '../../ffi/libc.js';
import { BpfError, type ErrnoName, errnoName } from '../errno.js';
import type { BpfMap, BpfProg, MapCreateAttr, MapEntry } from '../kernel.js';
import { Attr, bpf, type Command, Fd, objectInfo, refusedBy, tryBpf } from './bpf.js';
import { kernelBtf, loadBtf } from './btf_object.js';

/** Offsets in the attribute of BPF_MAP_CREATE, of commands on elements, and of batches. */
const CREATE = {
  type: 0,
  keySize: 4,
  valueSize: 8,
  maxEntries: 12,
  flags: 16,
  innerFd: 20,
  name: 28,
  btfFd: 48,
  btfKeyTypeId: 52,
  btfValueTypeId: 56,
  extra: 64,
} as const;
const ELEMENT = { fd: 0, key: 8, value: 16, flags: 24 } as const;
const BATCH = { inBatch: 0, outBatch: 8, keys: 16, values: 24, count: 32, fd: 36 } as const;
/** `struct bpf_map_info`: where the id is, and how much is asked for. */
const INFO = { id: 4, size: 80 } as const;
/** Elements that are asked for at once. */
const BATCH_ELEMENTS = 4096;
const BATCH_BYTES = 8 << 20;
const PAGE = 4096;

const EMPTY = new Uint8Array(0);
/** Maps whose entries are in a fixed order of numbers. */
const ARRAYS: ReadonlySet<number> = new Set([MAP_TYPE.ARRAY, MAP_TYPE.PERCPU_ARRAY]);
/** What has no keys. */
const KEYLESS: ReadonlySet<number> = new Set([MAP_TYPE.QUEUE, MAP_TYPE.STACK, MAP_TYPE.BLOOM_FILTER]);

export class LinuxMap implements BpfMap {
  readonly fd: Fd;
  readonly id: number;
  readonly type: number;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
  readonly btf?: Btf;
  readonly btfKeyTypeId?: number;
  readonly btfValueTypeId?: number;
  readonly innerMap?: BpfMap;
  #frozen = false;
  /** Of a value as commands have it: all CPUs' for a per-CPU map. */
  readonly #valueBytes: number;
  #mapping: { readonly address: bigint; readonly bytes: Uint8Array } | undefined;
  #batches = true;

  /** Throws with the kernel's reason. */
  constructor(attr: MapCreateAttr, possibleCpus: number) {
    const { type, name, keySize, valueSize, maxEntries, flags = 0, btf } = attr;
    const inner = attr.innerMap;
    if (inner !== undefined && !(inner instanceof LinuxMap))
      throw new BpfError('EINVAL', `map ${name}: its inner map is of another machine`);
    const create = new Attr()
      .u32(CREATE.type, type)
      .u32(CREATE.keySize, keySize)
      .u32(CREATE.valueSize, valueSize)
      .u32(CREATE.maxEntries, maxEntries)
      .u32(CREATE.flags, flags)
      .u32(CREATE.innerFd, inner?.fd.number ?? 0)
      .name(CREATE.name, name)
      .u64(CREATE.extra, attr.mapExtra ?? 0n);
    this.fd = new Fd(created(attr, create));
    this.type = type;
    this.name = name;
    this.keySize = keySize;
    this.valueSize = valueSize;
    this.maxEntries = maxEntries;
    this.flags = flags;
    if (btf !== undefined) this.btf = btf;
    if (attr.btfKeyTypeId !== undefined) this.btfKeyTypeId = attr.btfKeyTypeId;
    if (attr.btfValueTypeId !== undefined) this.btfValueTypeId = attr.btfValueTypeId;
    if (inner !== undefined) this.innerMap = inner;
    this.#valueBytes = isPerCpu(type) ? Math.ceil(valueSize / 8) * 8 * possibleCpus : valueSize;
    this.id = objectInfo(this.fd.number, Buffer.alloc(INFO.size)).readUInt32LE(INFO.id);
  }

  get frozen(): boolean {
    return this.#frozen;
  }

  lookup(key: Uint8Array): Uint8Array | undefined {
    return this.#read('MAP_LOOKUP_ELEM', this.#key(key));
  }

  update(key: Uint8Array, value: Uint8Array, flags = 0n): void {
    if (value.length !== this.#valueBytes)
      throw new BpfError(
        'EINVAL',
        `map ${this.name}: its values have ${this.#valueBytes} bytes, and ${value.length} are given`,
      );
    const attr = this.#element(this.#key(key)).pointer(ELEMENT.value, value).u64(ELEMENT.flags, flags);
    this.#do('MAP_UPDATE_ELEM', attr, 'an update');
  }

  delete(key: Uint8Array): void {
    this.#do('MAP_DELETE_ELEM', this.#element(this.#key(key)), 'a deletion');
  }

  lookupAndDelete(key: Uint8Array): Uint8Array | undefined {
    return this.#read('MAP_LOOKUP_AND_DELETE_ELEM', this.#key(key));
  }

  nextKey(key?: Uint8Array): Uint8Array | undefined {
    const next = new Uint8Array(this.keySize);
    const attr = this.#element(key === undefined ? EMPTY : this.#key(key)).pointer(ELEMENT.value, next);
    try {
      return tryBpf('MAP_GET_NEXT_KEY', attr, 'ENOENT') === undefined ? undefined : next;
    } catch (cause) {
      throw this.#error(cause, 'the next key');
    }
  }

  *entries(): Generator<MapEntry> {
    if (this.#batches && this.keySize > 0 && this.type !== MAP_TYPE.STACK_TRACE) {
      const whole = this.#inBatches();
      if (whole !== undefined) {
        yield* whole;
        return;
      }
      this.#batches = false;
    }
    for (let key = this.nextKey(); key !== undefined; key = this.nextKey(key)) {
      const value = this.lookup(key);
      if (value !== undefined) yield { key, value };
    }
  }

  /** Everything by `BPF_MAP_LOOKUP_BATCH`; `undefined` where the kernel has none for this type. */
  #inBatches(): MapEntry[] | undefined {
    const { keySize } = this;
    let most = Math.max(
      1,
      Math.min(BATCH_ELEMENTS, this.maxEntries, Math.floor(BATCH_BYTES / (keySize + this.#valueBytes))),
    );
    const position = Buffer.alloc(Math.max(keySize, 8));
    const entries: MapEntry[] = [];
    for (let first = true; ; first = false) {
      const keys = Buffer.alloc(keySize * most);
      const values = Buffer.alloc(this.#valueBytes * most);
      const attr = new Attr()
        .pointer(BATCH.outBatch, position)
        .pointer(BATCH.keys, keys)
        .pointer(BATCH.values, values)
        .u32(BATCH.count, most)
        .u32(BATCH.fd, this.fd.number);
      if (!first) attr.pointer(BATCH.inBatch, position);
      let ended = false;
      try {
        bpf('MAP_LOOKUP_BATCH', attr);
      } catch (cause) {
        if (!(cause instanceof SystemError)) throw cause;
        const code = errnoName(cause.errno);
        if (code === 'ENOENT') ended = true;
        // A bucket has more than there was room for.
        else if (code === 'ENOSPC' && most < this.maxEntries) {
          most = Math.min(most * 4, this.maxEntries);
          continue;
        } else return undefined;
      }
      const count = attr.bytes.readUInt32LE(BATCH.count);
      for (let i = 0; i < count; i++)
        entries.push({
          key: Uint8Array.from(keys.subarray(i * keySize, (i + 1) * keySize)),
          value: Uint8Array.from(values.subarray(i * this.#valueBytes, (i + 1) * this.#valueBytes)),
        });
      if (ended || count === 0) return entries;
    }
  }

  freeze(): void {
    // A mapping that can be written keeps it from being frozen.
    this.#unmap();
    this.#do('MAP_FREEZE', new Attr().u32(0, this.fd.number), 'freezing');
    this.#frozen = true;
  }

  updateObject(key: Uint8Array, object: BpfMap | BpfProg, flags = 0n): void {
    const fd = (object as { readonly fd?: Fd }).fd;
    if (!(fd instanceof Fd))
      throw new BpfError('EINVAL', `map ${this.name}: what it is given is of another machine`);
    const value = Buffer.alloc(4);
    value.writeInt32LE(fd.number);
    this.#do(
      'MAP_UPDATE_ELEM',
      this.#element(this.#key(key)).pointer(ELEMENT.value, value).u64(ELEMENT.flags, flags),
      `an update with ${object.name}`,
    );
  }

  /** Mapped when it is first asked for; only to be read once it is frozen. */
  get memory(): Uint8Array | undefined {
    if ((this.flags & MAP_FLAG.MMAPABLE) === 0 || !ARRAYS.has(this.type)) return undefined;
    if (this.#mapping === undefined) {
      const size = Math.ceil(this.valueSize / 8) * 8 * this.maxEntries;
      const prot = PROT.READ | (this.#frozen ? 0 : PROT.WRITE);
      const length = Math.ceil(size / PAGE) * PAGE;
      const address = mmap(0n, length, prot, MAP.SHARED, this.fd.number, 0);
      this.#mapping = { address, bytes: new Uint8Array(viewMemory(address, length), 0, size) };
    }
    return this.#mapping.bytes;
  }

  #unmap(): void {
    if (this.#mapping === undefined) return;
    munmap(this.#mapping.address, Math.ceil(this.#mapping.bytes.length / PAGE) * PAGE);
    this.#mapping = undefined;
  }

  free(): void {
    this.#unmap();
    this.fd.close();
  }

  #key(key: Uint8Array): Uint8Array {
    if (key.length === this.keySize) return key;
    throw new BpfError(
      'EINVAL',
      `map ${this.name}: its keys have ${this.keySize} bytes, and ${key.length} are given`,
    );
  }

  #element(key: Uint8Array): Attr {
    return new Attr().u32(ELEMENT.fd, this.fd.number).pointer(ELEMENT.key, key);
  }

  #read(command: Command, key: Uint8Array): Uint8Array | undefined {
    const value = new Uint8Array(this.#valueBytes);
    // A bloom filter is asked about the value.
    const attr = this.#element(key).pointer(ELEMENT.value, value);
    try {
      return tryBpf(command, attr, 'ENOENT') === undefined ? undefined : value;
    } catch (cause) {
      throw this.#error(cause, KEYLESS.has(this.type) ? 'taking a value' : 'a look-up');
    }
  }

  #do(command: Command, attr: Attr, what: string): void {
    try {
      bpf(command, attr);
    } catch (cause) {
      throw this.#error(cause, what);
    }
  }

  #error(cause: unknown, what: string): BpfError {
    if (!(cause instanceof SystemError)) throw cause;
    const code = errnoName(cause.errno);
    const why: Partial<Record<ErrnoName, string>> = {
      ENOENT: 'the key is not there',
      EEXIST: 'the key is there already',
      E2BIG: `it is full (${this.maxEntries} entries), or there is no such index`,
      EPERM: this.#frozen ? 'it is frozen' : 'it may not be written',
    };
    const known = code && why[code];
    if (known === undefined) return refusedBy(cause, `${what} of map ${this.name}`);
    return new BpfError(code as ErrnoName, `map ${this.name}: ${what}: ${known}`, { cause });
  }
}

/** Types of key and value matter to locks and timers only: where the kernel does not take them, it goes without. */
function created(attr: MapCreateAttr, create: Attr): number {
  const { btf, btfKeyTypeId = 0, btfValueTypeId = 0 } = attr;
  const what = `map ${attr.name} (${mapTypeName(attr.type) ?? `type ${attr.type}`})`;
  const plain = (): number => {
    try {
      return bpf('MAP_CREATE', create);
    } catch (cause) {
      throw refusedBy(cause, what);
    }
  };
  if (btf === undefined || btfValueTypeId === 0) return plain();
  using types = loadBtf(kernelBtf(btf, []).bytes, what);
  const set = (fd: number, key: number, value: number): void => {
    create.u32(CREATE.btfFd, fd).u32(CREATE.btfKeyTypeId, key).u32(CREATE.btfValueTypeId, value);
  };
  set(types.number, btfKeyTypeId, btfValueTypeId);
  try {
    return bpf('MAP_CREATE', create);
  } catch (cause) {
    if (!(cause instanceof SystemError)) throw cause;
    set(0, 0, 0);
    return plain();
  }
}
