import { spawnSync } from 'node:child_process';
import { onTestFinished, test } from 'vitest';
import { Running } from './support/command.js';
import { Tallies } from './support/exits.js';
import { traceProcess } from './support/rounds.js';
test('gdb', async () => {
  const r = new Running('/tmp/gdbt/sit', [], { keepInput: true });
  onTestFinished(() => r.stop());
  await r.expectOutput(/^pid/);
  let t: Tallies;
  const letGo = await traceProcess(r.pid, k => { t = new Tallies(k, ['bottom', 'tailing', 'middle', 'top', 'main'], 'fexit', true); }, () => console.log(t.read()));
  console.log(t!.link.skipped);
  r.say('');
  await r.expectOutput(/sitting/);
  for (const extra of [[], ['-x', '/work/wt/returns/share/gdb.py']]) {
    const g = spawnSync('gdb', ['-nx', '-q', '-batch', ...extra, '-p', String(r.pid), '-ex', 'bt -no-filters', '-ex', 'gcore /tmp/gdbt/core'], { encoding: 'utf8' });
    console.log(g.stdout, g.stderr);
  }
  const g = spawnSync('gdb', ['-nx', '-q', '-batch', '-x', '/work/wt/returns/share/gdb.py', '/tmp/gdbt/sit', '/tmp/gdbt/core', '-ex', 'bt'], { encoding: 'utf8' });
  console.log(g.stdout, g.stderr);
  r.say('');
  await r.ended;
  await letGo();
});
