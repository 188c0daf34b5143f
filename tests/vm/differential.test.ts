/**
 * The verifier against the real one: every program of tests/bpf and examples/ is judged by both, for the same function of
 * the newest kernel with the same types. Both say the same, but for the differences that are explained here and in
 * docs/verifier.md; MULTITRACE_DIFFERENTIAL_LIST=1 prints every program.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Btf } from '../../src/btf/btf.js';
import type { TargetFunction } from '../../src/kernel/kernel.js';
import { VerifyKernel } from '../../src/kernel/process/verify_kernel.js';
import { functionPrototype } from '../../src/process/symbols/prototypes.js';
import { BPF_PROGRAMS, compileBpfFile, EXAMPLES, missingBpfCompiler } from '../support/bpf.js';
import { ROOT } from '../support/paths.js';
import { judge, type Verdict } from './guest/judge.js';
import { Guest } from './guest.js';
import { newestKernel } from './kernels.js';

/** What the two say differently, by the words of its explanation in docs/verifier.md, which must be there. */
const STRICTER: Readonly<Record<string, string>> = {
  'impossible_task on_six': 'helpers that a process can’t have',
  'verify_no_helper on_add2': 'helpers that a process can’t have',
  'impossible_timer on_six': 'helpers that a process can’t have',
  'links_eight takes_node': 'addresses in atomics',
  'verify_large_stack on_add2': 'a stack for each function',
};
const LAXER: Readonly<Record<string, string>> = {
  'bpf_bloom on_add2': 'what a Bloom filter is asked',
  'bpf_override_return on_maybe': 'helpers that only kprobes have',
  'bpf_time on_add2': 'helpers that other programs have',
};

const FUNCTIONS = [1, 2, 6, 8, 10].map(n => `bpf_fentry_test${n}`);

function objects(): { label: string; path: string }[] {
  const folders = [
    BPF_PROGRAMS,
    ...readdirSync(BPF_PROGRAMS, { withFileTypes: true })
      .filter(entry => entry.isDirectory())
      .map(({ name }) => join(BPF_PROGRAMS, name)),
    EXAMPLES,
  ];
  return folders.flatMap(folder =>
    readdirSync(folder)
      .filter(name => name.endsWith('.bpf.c'))
      .map(name => ({
        label: `${basename(folder)}_${basename(name, '.bpf.c')}`,
        path: compileBpfFile(join(folder, name)),
      })),
  );
}

/** Our verifier, with the kernel's types. */
function ours(types: Btf, all: ReturnType<typeof objects>): Verdict[] {
  const module = { path: 'kernel', isMain: true, names: ['kernel'] };
  const named = new Map<string, TargetFunction>();
  const there = (name: string): boolean => {
    const id = types.find(name, 'func');
    if (id === undefined) return false;
    const prototype = functionPrototype(types, id);
    named.set(name, { module: 'kernel', name, address: BigInt(id), size: 16, prototype });
    return true;
  };
  for (const name of FUNCTIONS) there(name);
  return all.flatMap(({ label, path }) => {
    const kernel = new VerifyKernel({
      match: selectors => [...named.values()].filter(({ name }) => selectors.matchesFunction(module, [name])),
      modules: () => ['kernel'],
      types: () => types,
    });
    return judge(kernel, path, label, there);
  });
}

const kernel = newestKernel();
const lacking = missingBpfCompiler() ?? ('missing' in kernel ? kernel.missing : undefined);

describe.skipIf(lacking !== undefined)(`the verifier against the kernel's (${lacking ?? 'newest'})`, () => {
  it('judges every program of the tests and examples as Linux does, or it is explained', async () => {
    if ('missing' in kernel) return;
    const all = objects();
    const files: Record<string, string> = Object.fromEntries(
      all.map(({ label, path }) => [`/objects/${label}.bpf.o`, path]),
    );
    const guest = await Guest.boot(kernel, { files });
    const types = await guest.get('/sys/kernel/btf/vmlinux');
    const judged = guest.script<Verdict>('differential', Object.keys(files), { timeoutMs: 180_000 });
    const here = ours(Btf.parse(types, { name: 'vmlinux', trusted: true }), all);
    const there = new Map((await judged).map(verdict => [verdict.program, verdict]));
    expect(await guest.close()).toEqual([]);

    const counts = { accepted: 0, refused: 0, stricter: 0, laxer: 0 };
    const unexplained: string[] = [];
    const differing = { stricter: new Set<string>(), laxer: new Set<string>() };
    expect(here.map(({ program }) => program)).toEqual([...there.keys()]);
    for (const { program, accepted, why } of here) {
      const real = there.get(program)!;
      const kind = accepted ? (real.accepted ? 'accepted' : 'laxer') : real.accepted ? 'stricter' : 'refused';
      counts[kind]++;
      if (process.env.MULTITRACE_DIFFERENTIAL_LIST !== undefined)
        process.stderr.write(`${kind} ${program}\n  ours: ${why}\n  theirs: ${real.why}\n`);
      if (kind === 'accepted' || kind === 'refused') continue;
      differing[kind].add(program);
      if ((kind === 'stricter' ? STRICTER : LAXER)[program] === undefined)
        unexplained.push(`${kind}: ${program}\n  ours: ${why}\n  theirs: ${real.why}`);
    }
    process.stderr.write(`programs judged by both verifiers: ${JSON.stringify(counts)}\n`);
    expect(unexplained.join('\n')).toBe('');
    const page = readFileSync(join(ROOT, 'docs', 'verifier.md'), 'utf8');
    for (const words of Object.values({ ...STRICTER, ...LAXER })) expect(page).toContain(`| ${words} |`);
    // What is explained is so.
    expect([...differing.stricter].sort()).toEqual(Object.keys(STRICTER).sort());
    expect([...differing.laxer].sort()).toEqual(Object.keys(LAXER).sort());
  }, 300_000);
});
