/** The types of every BPF object of the project, as the running kernel is given them: it takes them. */

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Btf } from '../src/btf/btf.js';
import { BtfBuilder } from '../src/btf/builder.js';
import { BpfError } from '../src/kernel/errno.js';
import { kernelBtf, loadBtf } from '../src/kernel/linux/btf_object.js';
import { BpfObject } from '../src/libbpf/object.js';
import { bpfPrograms, compileBpf, compileBpfFile, EXAMPLES, missingBpfCompiler } from './support/bpf.js';

/** Why the kernel takes no types of ours. */
function refused(): string | undefined {
  const b = new BtfBuilder();
  b.addInt('int', 4);
  try {
    loadBtf(kernelBtf(Btf.parse(b.build()), []).bytes, 'a test').close();
    return undefined;
  } catch (cause) {
    if (cause instanceof BpfError) return cause.message;
    throw cause;
  }
}

test('the kernel takes the types of all objects, with lines and with static functions', ({ skip }) => {
  const lacking = missingBpfCompiler() ?? refused();
  skip(lacking !== undefined, lacking);
  const objects = [
    ...bpfPrograms().map(name => compileBpf(name)),
    ...readdirSync(EXAMPLES)
      .filter(name => name.endsWith('.bpf.c'))
      .map(name => compileBpfFile(join(EXAMPLES, name))),
  ];
  expect(objects.length).toBeGreaterThan(40);
  const line = { slot: 0, file: 'a.c', text: 'return 0;', line: 12, column: 3 };
  for (const path of objects) {
    const { btf } = BpfObject.open(path);
    for (const staticFunctions of [false, true])
      loadBtf(kernelBtf(btf as Btf, [line], { staticFunctions }).bytes, path).close();
  }
});
