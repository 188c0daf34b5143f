/**
 * What clang makes of correct C is accepted: every BPF program of tests/bpf and of examples/, at each cpu version, with
 * the prototypes of the functions that it is attached to and without.
 */

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { BpfProg, MapCreateAttr, ProgLoadAttr } from '../src/kernel/kernel.js';
import type { MapSpec } from '../src/kernel/process/verifier/environment.js';
import { type VerifiedProgram, verifyProgram } from '../src/kernel/process/verifier/verifier.js';
import { VerifierError } from '../src/kernel/verifier_error.js';
import { fakeFunction, type RecordedMap, RecordingKernel } from '../src/libbpf/fixture.js';
import { BpfObject } from '../src/libbpf/object.js';
import { moduleTypes, prototypeOf } from '../src/process/symbols/prototypes.js';
import {
  bpfPrograms,
  CPU_VERSIONS,
  compileBpf,
  compileBpfFile,
  compileBpfTarget,
  EXAMPLES,
  missingBpfCompiler,
} from './support/bpf.js';

const FUNCTIONS = [
  'add2',
  'six',
  'greet',
  'take_pointer',
  'parse',
  'read_outer',
  'negative',
  'leaf',
  'caller_one',
  'caller_two',
  'tick',
  'maybe',
];

/** What the verifier sees of a recorded map. */
function specOf(map: RecordedMap): MapSpec {
  const { attr } = map;
  return {
    id: map.id,
    type: map.type,
    name: map.name,
    keySize: map.keySize,
    valueSize: map.valueSize,
    maxEntries: map.maxEntries,
    flags: map.flags,
    frozen: map.frozen,
    btf: attr.btf,
    btfValueTypeId: attr.btfValueTypeId,
    innerMap: attr.innerMap === undefined ? undefined : specOf(attr.innerMap as RecordedMap),
    readConstant: (offset, size) => map.lookup(new Uint8Array(map.keySize))?.subarray(offset, offset + size),
  };
}

/** A machine that verifies what it loads, and runs nothing. */
class VerifyingKernel extends RecordingKernel {
  readonly verified: VerifiedProgram[] = [];

  override mapCreate(attr: MapCreateAttr): RecordedMap {
    return super.mapCreate(attr);
  }

  override progLoad(attr: ProgLoadAttr): BpfProg {
    const maps = new Map(attr.maps.map(map => [map.id, specOf(map as RecordedMap)]));
    const { attachType, btf, funcInfo, lineInfo, sleepable, target } = attr;
    try {
      this.verified.push(
        verifyProgram(attr.insns, {
          attachType,
          maps,
          logLevel: 1,
          prototype: target?.prototype,
          btf,
          funcInfo,
          lineInfo,
          ...(sleepable !== undefined && { sleepable }),
        }),
      );
    } catch (error) {
      if (!(error instanceof VerifierError)) throw error;
      throw new Error(`${attr.name}: ${error.message}\n${error.log.split('\n').slice(-60).join('\n')}`);
    }
    return super.progLoad(attr);
  }
}

function verifyObject(path: string, withTypes: boolean): readonly VerifiedProgram[] {
  const kernel = new VerifyingKernel();
  const types = withTypes ? moduleTypes(compileBpfTarget()) : undefined;
  if (types !== undefined) kernel.types.set('main', types);
  kernel.there = FUNCTIONS.map(name => {
    const prototype = types && prototypeOf(types, name);
    return { ...fakeFunction('main', name), ...(prototype && { prototype }) };
  });
  BpfObject.open(path).load(kernel);
  return kernel.verified;
}

describe.skipIf(missingBpfCompiler() !== undefined)('what clang compiles is accepted', () => {
  // three_levels is relocated against a library of its own test, and poisoned without it.
  test.each(bpfPrograms().filter(name => name !== 'three_levels'))('tests/bpf/%s', name => {
    for (const cpu of CPU_VERSIONS) {
      expect(verifyObject(compileBpf(name, cpu), true).length).toBeGreaterThan(0);
      if (name !== 'core') expect(verifyObject(compileBpf(name, cpu), false).length).toBeGreaterThan(0);
    }
  });

  const examples = readdirSync(EXAMPLES).filter(name => name.endsWith('.bpf.c'));
  test.each(examples)('examples/%s', name => {
    for (const cpu of CPU_VERSIONS) {
      expect(verifyObject(compileBpfFile(join(EXAMPLES, name), cpu), false).length).toBeGreaterThan(0);
    }
  });
});
