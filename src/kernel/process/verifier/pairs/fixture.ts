/** For tests of pairs: maps beyond those of rules_fixture.ts, the steps that many programs share, and how pairs are run. */

import { describe, expect, test } from 'vitest';
import { type ProgramBuilder, R0, R1, R2, R3, R4, R6, R10, type Register } from '../../../../bpf/builder.js';
import { HELPER } from '../../../../bpf/helpers.js';
import { MAP_TYPE } from '../../../../bpf/map_type.js';
import { VerifierError } from '../../../verifier_error.js';
import type { MapSpec } from '../environment.js';
import { MAPS, type Rule, TARGET, verify, type Write } from '../rules_fixture.js';
import { isVerified } from '../verifier.js';

function spec(id: number, name: string, fields: Partial<MapSpec>): MapSpec {
  return { id, name, type: MAP_TYPE.HASH, keySize: 4, valueSize: 8, maxEntries: 16, ...fields };
}

export const MORE = {
  lru: spec(30, 'lru', { type: MAP_TYPE.LRU_HASH }),
  trie: spec(31, 'trie', { type: MAP_TYPE.LPM_TRIE, keySize: 8 }),
  stack: spec(32, 'stack', { type: MAP_TYPE.STACK, keySize: 0 }),
  perf: spec(33, 'perf', { type: MAP_TYPE.PERF_EVENT_ARRAY, valueSize: 4 }),
  hashOfMaps: spec(34, 'hash_of_maps', {
    type: MAP_TYPE.HASH_OF_MAPS,
    valueSize: 4,
    innerMap: spec(61, 'inner_wide', { valueSize: 32 }),
  }),
  shapeless: spec(35, 'shapeless', { type: MAP_TYPE.ARRAY_OF_MAPS, valueSize: 4 }),
  perCpuHash: spec(36, 'per_cpu_hash', { type: MAP_TYPE.PERCPU_HASH }),
  hash: spec(37, 'hash', {}),
  threads: spec(38, 'threads', { type: MAP_TYPE.ARRAY, valueSize: 128, maxEntries: 1 }),
} satisfies Record<string, MapSpec>;

const maps = new Map([...Object.values(MAPS), ...Object.values(MORE)].map(map => [map.id, map as MapSpec]));

/** A function of types: `long f(struct outer *, int, char *)`. */
export const TYPED = {
  prototype: { nargs: 3, btf: TARGET.btf, args: TARGET.args, returns: TARGET.returns },
};

/** Tests that each pair's one program is accepted, and the other one is refused with the sentence. */
export function testPairs(theme: string, pairs: readonly Rule[]): void {
  describe(theme, () => {
    test.each(pairs.map(pair => [pair.name, pair] as const))('%s', (_name, pair) => {
      const env = { maps, ...pair.env };
      expect(isVerified(verify(pair.accept, pair.attach, env))).toBe(true);
      let refusal: unknown;
      try {
        verify(pair.refuse, pair.attach, env);
      } catch (error) {
        refusal = error;
      }
      expect(refusal, 'it was accepted').toBeInstanceOf(VerifierError);
      expect((refusal as VerifierError).message).toMatch(pair.because);
    });
  });
}

/** `register` points to `offset` of the stack. */
export const at = (p: ProgramBuilder, register: Register, offset: number): ProgramBuilder =>
  p.mov(register, R10).add(register, offset);

/** r1 is `map`, r2 points to a key of up to 16 bytes. */
export const keyed = (p: ProgramBuilder, map: MapSpec): ProgramBuilder =>
  at(p.store(8, R10, -16, 1).store(8, R10, -8, 2).ldMap(R1, map), R2, -16);

/** Goes on only where r0 is not null. */
export function there(p: ProgramBuilder): ProgramBuilder {
  const label = p.label();
  return p.jump('ne', R0, 0, label).exit().bind(label);
}

/** A record of the ring buffer in r6. */
export const reserved = (p: ProgramBuilder, size = 16): ProgramBuilder =>
  there(p.ldMap(R1, MAPS.events).mov(R2, size).mov(R3, 0).call(HELPER.ringbuf_reserve)).mov(R6, R0);
export const submit = (p: ProgramBuilder): ProgramBuilder =>
  p.mov(R1, R6).mov(R2, 0).call(HELPER.ringbuf_submit);

/** A dynptr at r10-16, of a ring buffer's record. */
export const reservedDynptr = (p: ProgramBuilder, offset = -16): ProgramBuilder =>
  at(p.ldMap(R1, MAPS.events).mov(R2, 8).mov(R3, 0), R4, offset).call(HELPER.ringbuf_reserve_dynptr);
export const discardDynptr = (p: ProgramBuilder, offset = -16): ProgramBuilder =>
  at(p, R1, offset).mov(R2, 0).call(HELPER.ringbuf_discard_dynptr);

/** A dynptr at r10-16, of a global variable's 64 bytes. */
export const localDynptr = (p: ProgramBuilder, offset = -16): ProgramBuilder =>
  at(p.ldMapValue(R1, MAPS.global).mov(R2, 64).mov(R3, 0), R4, offset).call(HELPER.dynptr_from_mem);

/** `body`, with a way out for it. */
export function withExit(
  p: ProgramBuilder,
  body: (out: ReturnType<ProgramBuilder['label']>) => unknown,
): ProgramBuilder {
  const out = p.label();
  body(out);
  return p.bind(out);
}

export type { Rule, Write };
