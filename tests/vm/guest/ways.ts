/**
 * Attaches programs to the kernel's functions for tests in each way that there is, has the kernel call them, and prints what
 * the programs saw: a line for each way and program.
 */

import { closeSync, fstatSync, openSync, readdirSync, readSync } from 'node:fs';
import { ProgramBuilder, R0, R1, R2, R3, R4, R6, R7 } from '../../../src/bpf/builder.js';
import { HELPER } from '../../../src/bpf/helpers.js';
import type { BpfInsn } from '../../../src/bpf/instruction.js';
import { KFUNC } from '../../../src/bpf/kfuncs.js';
import { MAP_TYPE } from '../../../src/bpf/map_type.js';
import type { Btf } from '../../../src/btf/btf.js';
import { BpfError } from '../../../src/kernel/errno.js';
import type {
  AttachType,
  BpfMap,
  LinkTarget,
  ProgLoadAttr,
  TracingMultiLink,
  Way,
} from '../../../src/kernel/kernel.js';
import { Attr, bpf } from '../../../src/kernel/linux/bpf.js';
import { LinuxKernel } from '../../../src/kernel/linux/machine.js';
import type { LinuxMap } from '../../../src/kernel/linux/map.js';
import { SelectorSet } from '../../../src/process/symbols/selector.js';
import { Counter } from '../../../src/tools/count.js';

const LICENSE = 'GPL';
const WORDS = 16;
const TESTS = [
  'bpf_fentry_test1',
  'bpf_fentry_test2',
  'bpf_fentry_test3',
  'bpf_fentry_test4',
  'bpf_fentry_test5',
  'bpf_fentry_test6',
];

const report = (line: Record<string, unknown>): void =>
  console.log(JSON.stringify(line, (_, value) => (typeof value === 'bigint' ? String(value) : value)));

const kernel = new LinuxKernel();
const end = new ProgramBuilder().mov(R0, 0).exit().build();
const [caller] = kernel.functionsNamed([TESTS[0]])[0];
const runner = kernel.progLoad({
  name: 'runner',
  attachType: 'fentry',
  insns: end,
  maps: [],
  license: LICENSE,
  target: caller,
});
/** The kernel calls its functions for tests, with arguments of its own. */
const callTests = (): void => void bpf('PROG_TEST_RUN', new Attr().u32(0, runner.fd.number));

/** What programs write their words into. */
class Words {
  readonly map: BpfMap;
  constructor(machine: LinuxKernel) {
    const sizes = { keySize: 4, valueSize: 8 * WORDS, maxEntries: 1 };
    this.map = machine.mapCreate({ type: MAP_TYPE.ARRAY, name: 'words', ...sizes });
  }
  read(): string[] {
    const value = this.map.lookup(new Uint8Array(4))!;
    const view = new DataView(value.buffer, value.byteOffset);
    return Array.from({ length: WORDS }, (_, i) => view.getBigUint64(8 * i, true).toString());
  }
}

/** Stores words of the context, then the cookie. */
function storeWords({ map }: Words, words: number): BpfInsn[] {
  const p = new ProgramBuilder().mov(R6, R1).ldMapValue(R7, map);
  for (let word = 0; word < words; word++) p.load(8, R2, R6, 8 * word).store(8, R7, 8 * word, R2);
  p.mov(R1, R6)
    .call(HELPER.get_attach_cookie)
    .store(8, R7, 8 * words, R0);
  return p.mov(R0, 0).exit().build();
}

/** At the entry: cookie of the session = argument 2. At the return: that, argument 1, result, both frames, cookie. */
function session({ map }: Words): BpfInsn[] {
  const p = new ProgramBuilder().mov(R6, R1).ldMapValue(R7, map);
  const back = p.label();
  p.callKfunc(KFUNC.bpf_session_is_return).jump('ne', R0, 0, back);
  p.mov(R1, R6).callKfunc(KFUNC.bpf_session_cookie).load(8, R1, R6, 8).store(8, R0, 0, R1);
  p.mov(R1, R6).callKfunc(KFUNC.bpf_session_frame).store(8, R7, 24, R0);
  p.mov(R0, 0).exit();
  p.bind(back);
  p.mov(R1, R6).callKfunc(KFUNC.bpf_session_cookie).load(8, R1, R0).store(8, R7, 0, R1);
  p.load(8, R1, R6, 0).store(8, R7, 8, R1).load(8, R1, R6, 24).store(8, R7, 16, R1);
  p.mov(R1, R6).callKfunc(KFUNC.bpf_session_frame).store(8, R7, 32, R0);
  p.mov(R1, R6).call(HELPER.get_attach_cookie).store(8, R7, 40, R0);
  return p.mov(R0, 0).exit().build();
}

/** At the entry: the cookie = 7, in the first call alone. At the return: adds it to the second word. */
function cookieOnce({ map }: Words): BpfInsn[] {
  const p = new ProgramBuilder().mov(R6, R1).ldMapValue(R7, map);
  const back = p.label();
  const out = p.label();
  p.callKfunc(KFUNC.bpf_session_is_return).jump('ne', R0, 0, back);
  p.load(8, R1, R7, 0).jump('ne', R1, 0, out).store(8, R7, 0, 1);
  p.mov(R1, R6).callKfunc(KFUNC.bpf_session_cookie).store(8, R0, 0, 7);
  p.goto(out);
  p.bind(back);
  p.mov(R1, R6).callKfunc(KFUNC.bpf_session_cookie).load(8, R1, R0);
  p.load(8, R2, R7, 8).add(R2, R1).store(8, R7, 8, R2);
  return p.bind(out).mov(R0, 0).exit().build();
}

/** Of vfs_read (file, buffer, count, position), called by this process: inode number and count, and the result. */
function readsFile({ map }: Words, types: Btf, result: boolean): BpfInsn[] {
  const offset = (struct: string, member: string): number => {
    const type = types.type(types.find(struct, 'struct')!);
    return (type.kind === 'struct' ? type.members : []).find(({ name }) => name === member)!.bitOffset / 8;
  };
  const p = new ProgramBuilder().mov(R6, R1);
  const out = p.label();
  p.call(HELPER.get_current_pid_tgid).rsh(R0, 32).jump('ne', R0, process.pid, out).ldMapValue(R7, map);
  p.load(8, R2, R6, 0).load(8, R3, R2, offset('file', 'f_inode')).load(8, R4, R3, offset('inode', 'i_ino'));
  p.store(8, R7, 0, R4).load(8, R1, R6, 16).store(8, R7, 8, R1);
  if (result) p.load(8, R1, R6, 32).store(8, R7, 16, R1);
  return p.bind(out).mov(R0, 0).exit().build();
}

function descriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

/** More maps than a guest ever makes. */
const MOST_MAPS = 10_000;

function tryWay(way: Way): void {
  const machine = new LinuxKernel({ way });
  const targetsOf = (...names: string[]): LinkTarget[] =>
    machine.functionsNamed(names).map(([target], index) => ({
      target: { ...target, prototype: machine.prototypeOf(target)! },
      cookie: BigInt(1000 + index),
    }));
  const attach = (
    attachType: AttachType,
    insns: BpfInsn[],
    targets: LinkTarget[],
    more: Partial<ProgLoadAttr> = {},
  ): TracingMultiLink => {
    const prog = machine.progLoad({
      ...{
        name: attachType,
        attachType,
        insns,
        maps: [],
        multi: true,
        license: LICENSE,
        target: targets[0].target,
      },
      ...more,
    });
    try {
      return machine.linkCreate({ prog, targets });
    } finally {
      prog.free();
    }
  };
  const words = new Words(machine);
  const test = (what: string, work: () => Record<string, unknown>): void => {
    const before = descriptors();
    try {
      report({ way, what, ...work(), left: descriptors() - before });
    } catch (cause) {
      if (!(cause instanceof BpfError)) throw cause;
      report({ way, what, error: cause.message, code: cause.code, left: descriptors() - before });
    }
  };

  for (const attachType of ['fentry', 'fexit'] as const)
    for (const [index, name] of TESTS.entries())
      test(`${attachType} ${index + 1}`, () => {
        const count = index + (attachType === 'fexit' ? 2 : 1);
        const link = attach(attachType, storeWords(words, count), targetsOf(name));
        callTests();
        link.detach();
        return { words: words.read().slice(0, count + 1), accessed: link.prog.accessedArgs };
      });
  test('session', () => {
    const link = attach('fsession', session(words), targetsOf('bpf_fentry_test3'));
    callTests();
    link.detach();
    const [handed, argument, result, entered, returned, cookie] = words.read();
    return { words: [handed, argument, result, cookie], sameFrame: entered !== '0' && entered === returned };
  });
  test('cookie', () => {
    words.map.update(new Uint8Array(4), new Uint8Array(8 * WORDS));
    const link = attach('fsession', cookieOnce(words), targetsOf('bpf_fentry_test3'));
    for (let i = 0; i < 50; i++) callTests();
    link.detach();
    return { words: words.read().slice(0, 2) };
  });
  test('full', () => {
    const link = attach('fsession', session(words), targetsOf('bpf_fentry_test3'));
    // The link's own is the newest.
    let calls: LinuxMap | undefined;
    for (let id = 1; id < MOST_MAPS; id++) {
      const map = machine.map(id);
      if (map?.name === 'calls') calls = map;
    }
    if (calls === undefined) {
      link.detach();
      return { table: false };
    }
    // Every place is that of some other call; the last entry is no place.
    const value = Uint8Array.from({ length: calls.valueSize }, (_, i) => (i === 0 ? 1 : 0));
    for (let i = 0; i < calls.maxEntries - 1; i++)
      calls.update(new Uint8Array(Uint32Array.of(i).buffer), value);
    words.map.update(new Uint8Array(4), new Uint8Array(8 * WORDS));
    callTests();
    const { missed } = link;
    link.detach();
    const [, , result, entered] = words.read();
    return { table: true, entered: entered !== '0', result, missed, after: link.missed };
  });
  test('words', () => {
    const insns = storeWords(words, 8);
    const common = { maps: [], multi: true, license: LICENSE } as const;
    const prog = machine.progLoad({ name: 'words', attachType: 'fexit', insns, argumentWords: 6, ...common });
    const link = machine.linkCreate({ prog, targets: targetsOf(...TESTS.slice(0, 2)) });
    prog.free();
    callTests();
    link.detach();
    // Those of the last one, which has two arguments.
    return { words: words.read().slice(0, 9) };
  });
  for (const attachType of ['fentry', 'fexit'] as const)
    test(`types ${attachType}`, () => {
      const insns = readsFile(words, machine.moduleTypes('kernel')!, attachType === 'fexit');
      const link = attach(attachType, insns, targetsOf('vfs_read'));
      const fd = openSync('/init', 'r');
      const got = readSync(fd, Buffer.alloc(4321), 0, 4321, 0);
      link.detach();
      const { ino } = fstatSync(fd);
      closeSync(fd);
      const [inode, asked, result] = words.read();
      return {
        inode: inode === String(ino),
        asked,
        ...(attachType === 'fexit' ? { result: result === String(got) } : {}),
      };
    });
  test('update', () => {
    const targets = targetsOf('bpf_fentry_test1', 'bpf_fentry_test2');
    const link = attach('fentry', storeWords(words, 1), targets.slice(0, 1));
    link.add(targets.slice(1));
    callTests();
    const before = words.read().slice(0, 2);
    const other = new Words(machine);
    const common = { attachType: 'fentry', maps: [], multi: true, license: LICENSE } as const;
    const { target } = targets[0];
    const next = machine.progLoad({ name: 'next', insns: storeWords(other, 1), target, ...common });
    link.update(next);
    next.free();
    words.map.update(new Uint8Array(4), new Uint8Array(8 * WORDS));
    callTests();
    const info = link.info().targets.map(({ function: name, cookie }) => `${name} ${cookie}`);
    link.detach();
    const after = other.read().slice(0, 2);
    other.map.update(new Uint8Array(4), new Uint8Array(8 * WORDS));
    callTests();
    const detached = other.read()[0];
    other.map.free();
    return { before, replaced: words.read()[0], after, detached, info, missed: link.missed };
  });
  test('all or nothing', () => {
    const targets = targetsOf(...TESTS);
    const gone = { ...targets[0].target, name: 'no_such_function', address: 0x1234n };
    try {
      attach('fentry', storeWords(words, 0), [...targets, { target: gone, cookie: 0n }]);
    } catch (cause) {
      if (cause instanceof BpfError) return { code: cause.code, message: cause.message };
      throw cause;
    }
    return {};
  });
  test('count', () => {
    const counter = new Counter(machine, SelectorSet.parse(['kernel:bpf_fentry_test[1-6]', 'kernel:vfs_*']));
    for (let i = 0; i < 25; i++) callTests();
    const counts = counter.read().filter(({ function: name }) => name.startsWith('bpf_'));
    const { attached, missed } = counter;
    counter.close();
    return { counts: counts.map(({ count }) => count), attached, missed };
  });
  machine.close();
}

for (const way of ['tracing_multi', 'kprobe_multi', 'tracing'] as const) tryWay(way);
kernel.close();
