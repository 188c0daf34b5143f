/** What attaching takes: bytes of memory in the process for each function, by kind of program. */

import { expect, onTestFinished, test } from 'vitest';
import { ProgramBuilder, R0 } from '../src/bpf/builder.js';
import { SelectorSet } from '../src/index.js';
import type { AttachType } from '../src/kernel/kernel.js';
import { ProcessKernel } from '../src/kernel/process/machine.js';
import { openProcess } from '../src/process/process.js';
import { Running } from './support/command.js';
import { mappings, until } from './support/process.js';
import { expectClean } from './support/rounds.js';
import { missingCommand } from './support/skip.js';

const missing = missingCommand('openssl');
/** A plain trampoline of the kernel takes a page. */
const MOST_BYTES = 256;

test.skipIf(missing !== undefined)(
  `a link on every function of libcrypto takes less than ${MOST_BYTES} bytes for each, and gives them back`,
  async () => {
    const openssl = new Running('openssl', ['dgst', '-sha256'], { keepInput: true });
    onTestFinished(() => openssl.stop());
    await until('its libraries are there', () =>
      mappings(openssl.pid).some(({ path }) => path.includes('libcrypto')),
    );
    await new Promise(resolve => setTimeout(resolve, 100));
    for (const attachType of [
      'fentry',
      'fexit',
      'fmod_ret',
      'fsession',
    ] as const satisfies readonly AttachType[]) {
      const kernel = new ProcessKernel(openProcess(openssl.pid));
      onTestFinished(() => kernel.close());
      const selectors = SelectorSet.parse(['libcrypto*:*']);
      kernel.allowModifyReturn = selectors;
      const targets = kernel.functions(selectors).map(target => ({ target, cookie: 1n }));
      const b = new ProgramBuilder();
      b.mov(R0, 0);
      b.exit();
      const prog = kernel.progLoad({ name: 'nothing', attachType, insns: b.build(), maps: [] });
      const total = (): number => kernel.bytesInUse.code + kernel.bytesInUse.data;
      const before = total();
      const link = kernel.linkCreate({ prog, targets, skipInvalid: true });
      const functions = link.targets.length;
      expect(functions).toBeGreaterThan(4000);
      const bytes = (total() - before) / functions;
      console.log(`${attachType}: ${bytes.toFixed(1)} bytes for each of ${functions} functions`);
      expect(bytes).toBeLessThan(MOST_BYTES);
      kernel.close();
      expectClean(openssl.pid);
    }
  },
);
