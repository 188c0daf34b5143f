/** Test programs of progs/*.c: each function with the verdict that its tags in BTF say. */

import type { BpfInsn } from '../../src/bpf/instruction.js';
import { MAP_FLAG, MAP_TYPE } from '../../src/bpf/map_type.js';
import type { Btf } from '../../src/btf/btf.js';
import { BtfExt } from '../../src/btf/ext.js';
import { BpfError } from '../../src/kernel/errno.js';
import type { FuncInfo, LineInfo } from '../../src/kernel/kernel.js';
import { NO_KERNEL } from '../../src/kernel/no_kernel.js';
import type { MapSpec } from '../../src/kernel/process/verifier/environment.js';
import { RecordedMap } from '../../src/libbpf/fixture.js';
import { Functions, TEXT } from '../../src/libbpf/functions.js';
import { linkProgram } from '../../src/libbpf/link.js';
import { type MapSpec as MapDefinition, readMapSpecs } from '../../src/libbpf/map_spec.js';
import { objectBtf } from '../../src/libbpf/object_btf.js';
import { readSections } from '../../src/libbpf/sections.js';
import type { Compiled } from './compile.js';

/** One program and what a kernel says of it, to a privileged user. */
export interface Case {
  /** File and function, or the description. */
  readonly name: string;
  /** As libbpf writes program types: `socket`, `kprobe/…`. */
  readonly section: string;
  readonly accepted: boolean;
  /** What the kernel's refusal says; several may be asked for. */
  readonly messages: readonly string[];
  /** `BPF_F_…` that the program is loaded with. */
  readonly flags: ReadonlySet<string>;
  readonly insns: readonly BpfInsn[];
  readonly maps: readonly MapSpec[];
  readonly btf?: Btf | undefined;
  readonly funcInfo?: readonly FuncInfo[];
  readonly lineInfo?: readonly LineInfo[];
  /** Why its bytes are no instructions: a refusal before the verifier. */
  readonly undecodable?: string;
  /** Why it can't be built for a process at all. */
  readonly unlinked?: string;
}

/** Tags begin so: `comment:test_expect_failure`. */
const PREFIX = 'comment:test_';

export function annotatedCases({ name: file, object, error }: Compiled): Case[] {
  if (object === undefined)
    return [{ ...NOTHING, name: file, unlinked: `needs types of a kernel to compile (${error})` }];
  const sections = readSections(object, object);
  const btf = objectBtf(sections);
  if (btf === undefined) return [];
  const tags = tagsOf(btf, PREFIX);
  const excepting = tagsOf(btf, 'exception_callback:');
  let functions: Functions;
  try {
    functions = new Functions(sections);
  } catch (thrown) {
    if (!(thrown instanceof BpfError)) throw thrown;
    return undecodable(file, tags, thrown.message);
  }
  const ext = sections.btfExt === undefined ? undefined : BtfExt.parse(sections.btfExt, btf);
  const maps = new Map<number, RecordedMap>();
  const data = new Map<number, RecordedMap>();
  let unusable: string | undefined;
  try {
    if (sections.maps !== undefined)
      for (const spec of readMapSpecs(btf, sections.relocations.get(sections.maps) ?? []))
        maps.set(spec.offset, recorded(maps.size + 1, spec, btf));
  } catch (thrown) {
    if (!(thrown instanceof BpfError)) throw thrown;
    unusable = `its maps: ${thrown.message}`;
  }
  for (const { index, name, kind, bytes } of sections.data)
    data.set(index, recordedData(1000 + index, name, kind, bytes));

  return sections.code
    .filter(section => section.name !== TEXT)
    .flatMap(section => functions.of(section))
    .flatMap((fn): Case[] => {
      const own = tags.get(fn.name) ?? [];
      const verdict = verdictOf(own);
      if (verdict === undefined) return [];
      const base = {
        ...NOTHING,
        name: `${file}: ${fn.name}`,
        section: fn.section.name.replace(/^\?/, ''),
        accepted: verdict,
        messages: valuesOf(own, 'expect_msg=').map(text => text.replace(/^\d+=/, '')),
        flags: new Set(valuesOf(own, 'prog_flags=')),
      };
      if (unusable !== undefined) return [{ ...base, unlinked: unusable }];
      if (excepting.has(fn.name)) return [{ ...base, unlinked: 'it calls bpf_throw' }];
      try {
        const linked = linkProgram(fn, {
          sections,
          functions,
          btf,
          ext,
          targets: () => [],
          moreTargets: () => [],
          mapAt: offset => maps.get(offset),
          dataMap: index => data.get(index),
          names: NO_KERNEL,
          kconfig: () => undefined,
        });
        if (linked.poisoned.length > 0) return [{ ...base, unlinked: 'asks for types of a kernel' }];
        return [
          {
            ...base,
            insns: linked.insns,
            maps: linked.maps.map(map => specOf(map as RecordedMap)),
            btf,
            funcInfo: linked.funcInfo,
            lineInfo: linked.lineInfo,
          },
        ];
      } catch (thrown) {
        if (!(thrown instanceof BpfError)) throw thrown;
        return [{ ...base, unlinked: thrown.message.replace(/^.*instruction \d+: /, '') }];
      }
    });
}

/** A file with a function that is no BPF: that one is refused by it, and the others were not looked at. */
function undecodable(file: string, tags: ReadonlyMap<string, readonly string[]>, message: string): Case[] {
  const bad = /function (\w+):/.exec(message)?.[1];
  return [...tags].flatMap(([name, own]): Case[] => {
    const accepted = verdictOf(own);
    if (accepted === undefined) return [];
    const base = { ...NOTHING, name: `${file}: ${name}`, accepted };
    return [
      name === bad
        ? { ...base, undecodable: message }
        : { ...base, unlinked: 'in one file with a function that is no BPF' },
    ];
  });
}

const NOTHING: Case = {
  name: '',
  section: '',
  accepted: false,
  messages: [],
  flags: new Set(),
  insns: [],
  maps: [],
};

function tagsOf(btf: Btf, prefix: string): Map<string, string[]> {
  const tags = new Map<string, string[]>();
  for (let id = 1; id <= btf.typeCount; id++) {
    const tag = btf.type(id);
    if (tag.kind !== 'decl_tag' || tag.component !== -1 || !tag.tag.startsWith(prefix)) continue;
    const name = btf.type(tag.type).name ?? '';
    tags.set(name, [...(tags.get(name) ?? []), tag.tag.slice(prefix.length)]);
  }
  return tags;
}

function valuesOf(tags: readonly string[], prefix: string): string[] {
  return tags.filter(tag => tag.startsWith(prefix)).map(tag => tag.slice(prefix.length));
}

/** Whether it is accepted; `undefined` where nothing is said for a privileged user. */
function verdictOf(tags: readonly string[]): boolean | undefined {
  if (tags.includes('expect_failure')) return false;
  if (tags.includes('expect_success')) return true;
  return undefined;
}

function recorded(id: number, spec: MapDefinition, btf: Btf): RecordedMap {
  const { type, name, keySize, valueSize, maxEntries, flags, inner, valueTypeId } = spec;
  return new RecordedMap(id, {
    type,
    name,
    keySize,
    valueSize,
    maxEntries,
    flags,
    btf,
    ...(valueTypeId !== undefined && { btfValueTypeId: valueTypeId }),
    ...(inner !== undefined && { innerMap: recorded(id + 500, inner, btf) }),
  });
}

function recordedData(id: number, name: string, kind: string, bytes: Uint8Array): RecordedMap {
  const map = new RecordedMap(id, {
    type: MAP_TYPE.ARRAY,
    name,
    keySize: 4,
    valueSize: bytes.length,
    maxEntries: 1,
    flags: kind === 'rodata' ? MAP_FLAG.RDONLY_PROG : 0,
  });
  map.update(new Uint8Array(4), bytes);
  if (kind === 'rodata') map.freeze();
  return map;
}

function specOf(map: RecordedMap): MapSpec {
  const { id, type, name, keySize, valueSize, maxEntries, flags, frozen, attr } = map;
  return {
    id,
    type,
    name,
    keySize,
    valueSize,
    maxEntries,
    flags,
    frozen,
    btf: attr.btf,
    btfValueTypeId: attr.btfValueTypeId,
    innerMap: attr.innerMap === undefined ? undefined : specOf(attr.innerMap as RecordedMap),
    readConstant: (offset, size) => map.lookup(new Uint8Array(keySize))?.subarray(offset, offset + size),
  };
}
