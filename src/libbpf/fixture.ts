/**
 * For tests of the loader alone: a machine that records what it is given and runs nothing. Maps are real enough to be
 * written and read.
 */

import { isPerCpu, MAP_TYPE } from '../bpf/map_type.js';
import type { Btf } from '../btf/btf.js';
import { BpfError } from '../kernel/errno.js';
import type {
  BpfMap,
  BpfProg,
  FunctionPrototype,
  Kernel,
  LinkCreateAttr,
  LinkPattern,
  LinkTarget,
  MapCreateAttr,
  MapEntry,
  MultiLinkCreateAttr,
  ProgLoadAttr,
  TargetCheck,
  TargetFunction,
  TracingLink,
  TracingMultiLink,
} from '../kernel/kernel.js';
import { NO_KERNEL } from '../kernel/no_kernel.js';
import type { SelectorSet } from '../process/symbols/selector.js';

const CPUS = 4;

export class RecordedMap implements BpfMap {
  readonly id: number;
  readonly type: number;
  readonly name: string;
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
  readonly attr: MapCreateAttr;
  readonly objects = new Map<string, BpfMap | BpfProg>();
  readonly #values = new Map<string, Uint8Array>();
  /** Records that a test has put there. */
  readonly records: Uint8Array[] = [];
  frozen = false;
  freed = false;

  constructor(id: number, attr: MapCreateAttr) {
    this.id = id;
    this.attr = attr;
    this.type = attr.type;
    this.name = attr.name;
    this.keySize = attr.keySize;
    this.valueSize = attr.valueSize;
    this.maxEntries = attr.maxEntries;
    this.flags = attr.flags ?? 0;
  }

  lookup(key: Uint8Array): Uint8Array | undefined {
    if (this.freed) throw new Error(`map ${this.name} is freed`);
    const value = this.#values.get(Buffer.from(key).toString('hex'));
    if (value === undefined && this.type === MAP_TYPE.ARRAY) return new Uint8Array(this.valueSize);
    return value === undefined ? undefined : Uint8Array.from(value);
  }
  update(key: Uint8Array, value: Uint8Array, _flags?: bigint): void {
    const size = isPerCpu(this.type) ? Math.ceil(this.valueSize / 8) * 8 * CPUS : this.valueSize;
    if (key.length !== this.keySize || value.length !== size)
      throw new BpfError('EINVAL', `${this.name}: key of ${key.length}, value of ${value.length} bytes`);
    if (this.frozen) throw new BpfError('EPERM', `${this.name} is frozen`);
    this.#values.set(Buffer.from(key).toString('hex'), Uint8Array.from(value));
  }
  delete(key: Uint8Array): void {
    if (!this.#values.delete(Buffer.from(key).toString('hex'))) throw new BpfError('ENOENT', 'no such key');
  }
  lookupAndDelete(key: Uint8Array): Uint8Array | undefined {
    const value = this.lookup(key);
    if (value !== undefined) this.delete(key);
    return value;
  }
  nextKey(): Uint8Array | undefined {
    return undefined;
  }
  *entries(): Generator<MapEntry> {
    for (const [key, value] of this.#values) yield { key: Uint8Array.from(Buffer.from(key, 'hex')), value };
  }
  freeze(): void {
    this.frozen = true;
  }
  updateObject(key: Uint8Array, object: BpfMap | BpfProg): void {
    this.objects.set(Buffer.from(key).toString('hex'), object);
  }
  consume(record: (bytes: Uint8Array) => void, limit = Number.POSITIVE_INFINITY): number {
    if (this.freed) throw new Error(`map ${this.name} is freed`);
    const taken = this.records.splice(0, limit);
    for (const bytes of taken) record(bytes);
    return taken.length;
  }
  async wait(timeoutMs: number): Promise<boolean> {
    await new Promise(resolve => setTimeout(resolve, Math.min(timeoutMs, 2)));
    return this.records.length > 0;
  }
  free(): void {
    this.freed = true;
  }
}

export interface RecordedProg extends BpfProg {
  readonly attr: ProgLoadAttr;
}

export class RecordingKernel implements Kernel {
  readonly names = NO_KERNEL;
  readonly possibleCpus = CPUS;
  readonly mayPrint = false;
  readonly created: RecordedMap[] = [];
  readonly progs: RecordedProg[] = [];
  readonly links: { readonly prog: BpfProg; readonly targets: LinkTarget[]; detached: boolean }[] = [];
  /** Functions that are there, `module:name`. */
  there: TargetFunction[] = [];
  readonly types = new Map<string, Btf>();
  #next = 1;
  readonly #patterns: { readonly pattern: LinkPattern; readonly targets: LinkTarget[] }[] = [];

  enableStats(): void {}

  mapCreate(attr: MapCreateAttr): RecordedMap {
    const map = new RecordedMap(this.#next++, attr);
    this.created.push(map);
    return map;
  }
  prototypeOf({ prototype }: TargetFunction): FunctionPrototype | undefined {
    return prototype;
  }
  progLoad(attr: ProgLoadAttr): BpfProg {
    const prog = {
      id: this.#next++,
      name: attr.name,
      attachType: attr.attachType,
      accessedArgs: [],
      jitedSize: 0,
      attr,
      free: () => {},
    };
    this.progs.push(prog);
    return prog;
  }
  linkCreate(attr: LinkCreateAttr): TracingLink;
  linkCreate(attr: MultiLinkCreateAttr): TracingMultiLink;
  linkCreate(attr: LinkCreateAttr | MultiLinkCreateAttr): TracingLink | TracingMultiLink {
    const { prog } = attr;
    const targets: LinkTarget[] =
      'target' in attr ? [{ target: attr.target, cookie: attr.cookie ?? 0n }] : [...(attr.targets ?? [])];
    const link = { prog, targets, detached: false };
    this.links.push(link);
    if ('pattern' in attr && attr.pattern !== undefined)
      this.#patterns.push({ pattern: attr.pattern, targets });
    const id = this.#next++;
    const base = {
      id,
      prog,
      targets,
      get attached() {
        return targets.length;
      },
      skipped: [],
      pauseMs: 0,
      attachMs: 0,
      missed: 0n,
      info: () => {
        throw new Error('no link of this machine tells of itself');
      },
      update: () => {},
      detach: () => {
        link.detached = true;
      },
    };
    const kind = 'target' in attr ? 'tracing' : 'tracing_multi';
    const add = (more: readonly LinkTarget[]): void => void targets.push(...more);
    return Object.assign(base, { kind, add, way: 'tracing_multi' }) as TracingLink | TracingMultiLink;
  }
  /** A library brings a function: it joins the links whose patterns match. */
  bring(target: TargetFunction): void {
    this.there.push(target);
    for (const { pattern, targets } of this.#patterns)
      if (this.functions(pattern.selectors).includes(target))
        targets.push({ target, cookie: pattern.cookie?.(target) ?? 0n });
  }
  functionsNamed(wanted: readonly string[]): TargetFunction[][] {
    return wanted.map(text => {
      const [name, module] = text.split(':').reverse();
      return this.there.filter(t => t.name === name && (module === undefined || t.module === module));
    });
  }
  functionAt(address: bigint): TargetFunction | undefined {
    return this.there.find(target => target.address === address);
  }
  functions(selectors: SelectorSet): TargetFunction[] {
    return this.there.filter(({ module, name }) => {
      const selectable = { path: `/lib/${module}`, isMain: module === 'main' };
      return selectors.matchesModule(selectable) && selectors.matchesFunction(selectable, [name]);
    });
  }
  check(): TargetCheck[] {
    return [];
  }
  modules(): string[] {
    return [...new Set(this.there.map(({ module }) => module))];
  }
  moduleTypes(module: string): Btf | undefined {
    return this.types.get(module);
  }
  readTrace(): string[] {
    return [];
  }
  close(): void {}
}

/** A function at an address made from its name. */
export function fakeFunction(module: string, name: string): TargetFunction {
  let address = 0x1000n;
  for (const char of `${module}:${name}`)
    address = (address * 31n + BigInt(char.charCodeAt(0))) & 0xffff_ffffn;
  return { module, name, address, size: 16 };
}
