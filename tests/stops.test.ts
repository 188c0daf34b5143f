import { closeSync, openSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { spawnStopped } from '../src/process/spawn.js';
import { compileTarget } from './support/compile.js';
import { missingCompiler } from './support/skip.js';

const recipe = { source: 'epolls.c' };
const missing = missingCompiler(recipe);

test.skipIf(missing !== undefined)(
  `stops are not seen by system calls that answer EINTR${missing === undefined ? '' : ` (skipped: ${missing})`}`,
  async () => {
    const path = join(tmpdir(), `multitrace-stops-${process.pid}`);
    const fd = openSync(path, 'w');
    const child = spawnStopped([compileTarget(recipe)], { stdout: fd });
    closeSync(fd);
    child.resumeAll();
    let stops = 0;
    // An interrupted wait begins anew with its whole time: stop less often than that.
    while (child.poll() !== 'ended') {
      await new Promise(done => setTimeout(done, 41));
      try {
        child.stopAll();
        stops++;
      } catch (cause) {
        // It ended just now.
        expect((cause as Error).message).toMatch(/ended/);
        continue;
      }
      child.resumeAll();
    }
    expect(stops).toBeGreaterThan(10);
    expect(child.exit).toEqual({ code: 0 });
    expect(readFileSync(path, 'utf8')).toBe('interrupted\t0\n');
  },
);
