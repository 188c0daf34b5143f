/**
 * `npm run bench`: prints what a traced call costs beside its peers, and what attaching costs. `-- ringbuf`: what a ring
 * buffer carries. `--json` for programs.
 */

import { attachTime } from './attach_time.js';
import { callCost } from './call_cost.js';
import { printRingbuf, ringbufRates } from './ringbuf.js';

const say = (text: string): void => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
};

const percent = (share: number): string => `${(share * 100).toFixed(0)}%`;

if (process.argv.includes('ringbuf')) {
  const rows = await ringbufRates(say);
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
  if (process.argv.includes('--json')) console.log(JSON.stringify({ ringbuf: rows }));
  else printRingbuf(rows);
  process.exit(0);
}

const calls = await callCost(say);
const attach = await attachTime(say);
if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');

if (process.argv.includes('--json')) {
  console.log(JSON.stringify({ calls, attach: attach ?? null }));
} else {
  const ns = (name: string): number | undefined => calls.find(row => row.name.startsWith(name))?.nsPerCall;
  const untraced = ns('untraced call') ?? Number.NaN;
  console.log('One call of a small function, counted; medians of interleaved rounds\n');
  console.log('      ns   spread   added ns   what');
  for (const row of calls) {
    if (row.nsPerCall === undefined) {
      console.log(`       -        -          -   ${row.name}: not here: ${row.unavailable}`);
      continue;
    }
    const added = row.nsPerCall - untraced;
    console.log(
      [
        row.nsPerCall.toFixed(2).padStart(8),
        `±${((row.spread ?? 0) * 100).toFixed(1)}%`.padStart(8),
        (Math.abs(added) < 0.005 ? '-' : added.toFixed(2)).padStart(10),
        row.name,
      ].join(' '),
    );
  }
  const ours = ns('fentry-multi (moved');
  const uprobe = ns('kernel uprobe');
  if (ours !== undefined && uprobe !== undefined)
    console.log(
      `\na kernel uprobe event takes ${(uprobe / ours).toFixed(0)} times as long as one of ours; it adds ${((uprobe - untraced) / (ours - untraced)).toFixed(0)} times as much`,
    );
  if (attach === undefined) console.log('\nattaching: not here: libcrypto.so.3 is not installed');
  for (const one of attach ?? []) {
    const detach = one.detachMs === undefined ? '' : `; detaching takes ${one.detachMs.toFixed(0)} ms`;
    console.log(
      `\n${one.name}: ${one.functions} functions, one link\n` +
        `  attaching takes ${one.attachMs.toFixed(0)} ms (±${percent(one.attachSpread)}) once symbols are read; the process stands still for ${one.pauseMs.toFixed(1)} ms (±${percent(one.pauseSpread)})${detach}`,
    );
  }
}
process.exit(0);
