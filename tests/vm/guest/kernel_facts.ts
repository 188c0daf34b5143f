/** Loads kernel_facts.bpf.o, calls getpgid(2) fifty times, and prints all that its programs saw. */

import { SystemError, systemCall } from '../../../src/ffi/libc.js';
import { LinuxKernel } from '../../../src/kernel/linux/machine.js';
import { BpfObject } from '../../../src/libbpf/object.js';

const GETPGID = 121;
const CALLS = 50;

const kernel = new LinuxKernel();
const object = BpfObject.open(process.argv[2]);
kernel.enableStats();
object.load(kernel);
const attached = object.attach();
const rings = ['ring', 'perf'].map(name => object.ringBuffer(name));
const waits = rings.map(ring => ring.wait(10_000));
for (let i = 0; i < CALLS; i++)
  try {
    systemCall('getpgid', GETPGID, i === 0 ? 0x7fff_fff0 : process.pid);
  } catch (cause) {
    if (!(cause instanceof SystemError) || i !== 0) throw cause;
  }
await Promise.all(waits);
const records = rings.map(ring => {
  const texts: string[] = [];
  ring.consumeBytes(bytes => texts.push(Buffer.from(bytes).subarray(0, 32).toString('hex')));
  return texts;
});
const values: Record<string, unknown> = {};
for (const section of object.sections)
  for (const name of section.variables.keys()) values[name] = section.values[name];
const perCpu = [...object.map('per_cpu').live.entries()][0].value as bigint[];
const symbols = kernel.moduleTypes('kernel');
const print = (value: unknown): void =>
  console.log(JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? Number(v) : v)));
print({
  pid: process.pid,
  attached,
  records,
  values,
  perCpu: perCpu.reduce((sum, one) => sum + one, 0n),
  hash: [...object.map('hash').live.entries()],
  stacks: [...object.map('stacks').live.entries()].length,
  printed: kernel.readTrace(),
  runs: object.programs.map(({ name, prog }) => ({ name, runs: prog.stats?.runCount })),
  taskType: symbols?.find('task_struct', 'struct'),
  jiffies: BigInt.asIntN(64, kernel.names.ksymAddress('jiffies_64') ?? 0n).toString(),
});
object.destroy();
try {
  for (let i = 0; i < 3; i++) systemCall('getpgid', GETPGID, process.pid);
  // Detached: nothing prints any more.
  print({ printedAfter: kernel.readTrace() });
} finally {
  kernel.close();
}
