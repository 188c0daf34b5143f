import { existsSync, readFileSync } from 'node:fs';
import { afterEach, describe, expect, it, test } from 'vitest';
import { Btf } from '../../btf/btf.js';
import { SelectorSet } from '../../process/symbols/selector.js';
import type { BpfError } from '../errno.js';
import type { AttachType, TargetFunction } from '../kernel.js';
import { KernelFiles, kallsyms, typesOf } from './fixture.js';
import { KernelFunctions } from './functions.js';
import { KernelTypes } from './kernel_types.js';

const left: KernelFiles[] = [];
afterEach(() => {
  for (const files of left.splice(0)) files.remove();
});

const FUNCTIONS = {
  plain: ['int', 'pointer', 'int'],
  nothing: ['void'],
  notrace: ['void', 'int'],
  takes_small: ['void', 'small_t'],
  takes_pair: ['int', 'int', 'pair'],
  takes_large: ['int', 'large'],
  returns_small: ['small_t', 'int'],
  prints: ['int', 'pointer', '...'],
  seven: ['int', ...Array<string>(7).fill('int')],
  twelve: ['int', 'pair', ...Array<string>(10).fill('int')],
  thirteen: ['int', 'pair', ...Array<string>(11).fill('int')],
  migrate_enable: ['void'],
  do_exit: ['void', 'wide'],
  security_file_open: ['int', 'pointer'],
  should_fail: ['int'],
  twice: ['int', 'int'],
  two_prototypes: [
    ['int', 'int'],
    ['int', 'pointer'],
  ],
  same_types: [
    ['int', 'pointer', 'int'],
    ['int', 'pointer', 'int'],
  ],
  __do_sys_fork: ['wide'],
  changed: ['int'],
  __x64_sys_open: ['wide', 'pointer'],
};

const SYMBOLS = [
  'data_first',
  '_text',
  '__pfx_plain',
  'plain',
  'nothing',
  'notrace',
  'takes_small',
  'takes_pair',
  'takes_large',
  'returns_small',
  'prints',
  'seven',
  'twelve',
  'thirteen',
  'migrate_enable',
  'do_exit',
  'security_file_open',
  'should_fail',
  'twice',
  'twice',
  'two_prototypes',
  'same_types',
  '__x64_sys_fork',
  '=__do_sys_fork',
  '=__ia32_sys_fork',
  'changed.isra.0',
  'changed.constprop.0',
  'plain.cold',
  'nothing.cold.3',
  'untyped',
  '__x64_sys_open',
  'mod_entry some_mod',
  'plain some_mod',
  'bpf_prog_1234 bpf',
];
const UNTRACED = /^(data_first|_text|notrace|bpf_prog.*|__pfx.*|__x64_sys_fork|__ia32_sys_fork|.*\.cold.*)$/;

function kernel(options: { hidden?: boolean; filter?: boolean; release?: string; debug?: boolean } = {}) {
  const files = new KernelFiles();
  left.push(files);
  const vmlinux = typesOf(FUNCTIONS);
  files
    .write('sys/kernel/btf/vmlinux', vmlinux)
    .write(
      'sys/kernel/btf/some_mod',
      typesOf({ mod_entry: ['int', 'pointer'], plain: ['void', 'wide'] }, Btf.parse(vmlinux)),
    )
    .write('proc/kallsyms', kallsyms(SYMBOLS, options.hidden))
    .write('proc/sys/kernel/osrelease', options.release ?? '7.3.4-cloud\n');
  if (options.filter !== false)
    files.write(
      'sys/kernel/tracing/available_filter_functions',
      SYMBOLS.map(entry => entry.replace(/^=/, ''))
        .filter(entry => !UNTRACED.test(entry.split(' ')[0]))
        .map(entry => `${entry.replace(/ (.*)/, ' [$1]')}\n`)
        .join(''),
    );
  if (options.debug) files.write('sys/kernel/debug/error_injection/list', 'should_fail+0x0/0x10\tERRNO\n');
  const types = KernelTypes.open({ root: files.root });
  return { files, types, functions: new KernelFunctions(types, { root: files.root }) };
}

const match = (functions: KernelFunctions, ...selectors: string[]): TargetFunction[] =>
  functions.functions(SelectorSet.parse(selectors));
const namesOf = (targets: readonly TargetFunction[]): string[] => targets.map(t => `${t.module}:${t.name}`);

describe('functions of a kernel', () => {
  it('are matched by name, in the kernel where no module is named, without padding, pieces and data', () => {
    const { functions } = kernel();
    expect(functions.modules).toEqual(['kernel', 'some_mod']);
    expect(namesOf(match(functions, 'pl*', 'kernel:nothing*'))).toEqual(['kernel:plain', 'kernel:nothing']);
    expect(namesOf(match(functions, '*:plain', '!kernel:*'))).toEqual(['some_mod:plain']);
    expect(namesOf(match(functions, 'some_mod:*'))).toEqual(['some_mod:mod_entry', 'some_mod:plain']);
    expect(match(functions, 'data_*', '__pfx_*', 'bpf_prog*', '*:bpf_prog*')).toEqual([]);
  });

  it('have their address and size, and are found by it', () => {
    const { functions } = kernel();
    const [plain] = match(functions, 'plain');
    expect(plain).toMatchObject({ address: 0xffffffff81000040n, size: 16 });
    expect(functions.at(plain.address)).toMatchObject({ module: 'kernel', name: 'plain' });
    expect(functions.at(plain.address + 1n)).toBeUndefined();
    expect(functions.at(0n)).toBeUndefined();
  });

  it('with several names at one address are one, by the first name that was matched', () => {
    const { functions, types } = kernel();
    expect(namesOf(match(functions, '*sys_fork'))).toEqual(['kernel:__x64_sys_fork']);
    const [fork] = match(functions, '__ia32*');
    expect(fork.name).toBe('__ia32_sys_fork');
    // ftrace and the types know it by another of its names.
    expect(functions.check(fork)).toBeUndefined();
    expect(functions.btfOf(fork)).toEqual({
      module: 'kernel',
      id: types.functionId('kernel', '__do_sys_fork'),
    });
  });

  it('are found by name: the kernel’s before those of modules', () => {
    const { functions } = kernel();
    const found = functions.named([
      'plain',
      'some_mod:plain',
      'mod_entry',
      'kernel:mod_entry',
      'nobody',
      'twice',
    ]);
    expect(found.map(namesOf)).toEqual([
      ['kernel:plain'],
      ['some_mod:plain'],
      ['some_mod:mod_entry'],
      [],
      [],
      ['kernel:twice'],
    ]);
  });

  it('take and return what the types of their module say', () => {
    const { functions } = kernel();
    const [[kernels], [modules], [prints], [nothing]] = functions.named([
      'plain',
      'some_mod:plain',
      'prints',
      'nothing',
    ]);
    const shown = ({
      btf,
      args = [],
      returns = 0,
      variadic,
    }: NonNullable<ReturnType<KernelFunctions['prototypeOf']>>) =>
      [...args, returns].map(id => btf?.typeName(id)).join(' ') + (variadic ? ' ...' : '');
    expect(shown(functions.prototypeOf(kernels)!)).toBe('void * int int');
    expect(shown(functions.prototypeOf(modules)!)).toBe('long unsigned int void');
    expect(shown(functions.prototypeOf(prints)!)).toBe('void * int ...');
    expect(functions.prototypeOf(nothing)).toMatchObject({ nargs: 0, returns: 0 });
    expect(functions.prototypeOf({ ...kernels, name: 'untyped' })).toBeUndefined();
  });

  const reason = (functions: KernelFunctions, name: string, attachType?: AttachType): string | undefined =>
    functions.check(match(functions, name)[0], attachType)?.reason;

  test.each<[string, string | undefined, AttachType?]>([
    ['plain', undefined],
    ['plain', undefined, 'fexit'],
    ['plain', 'not-modifiable', 'fmod_ret'],
    ['some_mod:plain', undefined],
    ['nothing', undefined, 'fsession'],
    ['notrace', 'not-traceable'],
    ['takes_small', undefined],
    ['takes_pair', undefined],
    ['takes_large', 'large-argument'],
    ['returns_small', 'struct-result'],
    ['prints', 'variadic'],
    ['twelve', undefined],
    ['thirteen', 'too-many-arguments'],
    ['migrate_enable', 'denied'],
    ['do_exit', undefined, 'fentry'],
    ['do_exit', 'no-return', 'fexit'],
    ['do_exit', 'no-return', 'fsession'],
    ['security_file_open', undefined, 'fmod_ret'],
    ['should_fail', 'not-modifiable', 'fmod_ret'],
    ['__x64_sys_open', undefined, 'fmod_ret'],
    ['twice', 'duplicate-name'],
    ['two_prototypes', 'no-types'],
    ['same_types', undefined],
    ['untyped', 'no-types'],
    ['changed.isra.0', 'changed-arguments'],
    ['changed.constprop.0', 'changed-arguments'],
  ])('%s: %s (%s)', (name, expected, attachType) => {
    expect(reason(kernel().functions, name, attachType)).toBe(expected);
  });

  it('that are gone are unknown', () => {
    const { functions, files } = kernel();
    const [entry] = match(functions, 'some_mod:mod_entry');
    expect(functions.check({ ...entry })).toBeUndefined();
    expect(functions.check({ ...entry, address: 1n })?.reason).toBe('unknown-function');
    files.write('proc/kallsyms', kallsyms(['plain']));
    functions.refresh();
    expect(functions.check(entry)?.reason).toBe('unknown-function');
    expect(functions.btfOf(entry)).toBeUndefined();
    expect(functions.modules).toEqual(['kernel']);
  });

  it('by address need no types, and may share a name', () => {
    const { functions, files } = kernel();
    const untyped = new KernelFunctions(undefined, { root: files.root });
    expect(untyped.check(match(untyped, 'plain')[0])?.reason).toBe('no-types');
    expect(match(untyped, 'twice').map(t => untyped.checkAddress(t))).toEqual([undefined, undefined]);
    const by = (name: string) => functions.checkAddress(match(functions, name)[0])?.reason;
    expect(['prints', 'untyped', 'notrace', 'changed.isra.0', 'migrate_enable'].map(by)).toEqual([
      undefined,
      undefined,
      'not-traceable',
      'changed-arguments',
      'denied',
    ]);
    // One line for two symbols: either may be the one.
    files.write('sys/kernel/tracing/available_filter_functions', 'plain\ntwice\n');
    untyped.refresh();
    expect(match(untyped, 'twice').map(t => untyped.checkAddress(t)?.reason)).toEqual([
      'duplicate-name',
      'duplicate-name',
    ]);
    expect(match(untyped, 'plain').map(t => untyped.checkAddress(t))).toEqual([undefined]);
  });

  it('take no arguments from the stack before Linux 6.6', () => {
    expect(reason(kernel({ release: '6.1.0-53-cloud-amd64\n' }).functions, 'seven')).toBe(
      'too-many-arguments',
    );
    expect(reason(kernel({ release: '6.6.1\n' }).functions, 'seven')).toBeUndefined();
    expect(reason(kernel({ release: '10.0\n' }).functions, 'seven')).toBeUndefined();
  });

  it('may have their result changed where the kernel lists them', () => {
    const { functions } = kernel({ debug: true });
    expect(reason(functions, 'should_fail', 'fmod_ret')).toBeUndefined();
    // The list is all that there is where it can be read.
    expect(reason(functions, '__x64_sys_open', 'fmod_ret')).toBe('not-modifiable');
  });

  it('have stand-ins for addresses that the kernel hides', () => {
    const { functions } = kernel({ hidden: true });
    expect(functions.hasAddresses).toBe(false);
    const all = match(functions, '*:*');
    expect(new Set(all.map(({ address }) => address)).size).toBe(all.length);
    for (const target of all) expect(functions.at(target.address)).toMatchObject({ name: target.name });
    expect(functions.check(match(functions, 'plain')[0])).toBeUndefined();
    expect(functions.check(match(functions, 'twice')[1])?.reason).toBe('duplicate-name');
  });

  it('may be untraceable where the kernel does not say', () => {
    const { functions } = kernel({ filter: false });
    expect(functions.knowsTraceable).toBe(false);
    expect(reason(functions, 'notrace')).toBeUndefined();
    expect(kernel().functions.knowsTraceable).toBe(true);
  });
});

describe('a kernel that does not tell', () => {
  const thrown = (work: () => unknown): string => {
    try {
      work();
    } catch (error) {
      return `${(error as BpfError).code}: ${(error as BpfError).message}`;
    }
    return 'nothing';
  };

  it('is refused with what is missing', () => {
    const files = new KernelFiles();
    left.push(files);
    const { root } = files;
    expect(thrown(() => KernelTypes.open({ root }))).toMatch(/^EOPNOTSUPP: .*\/sys is not mounted/);
    files.write('sys/kernel/other', '');
    expect(thrown(() => KernelTypes.open({ root }))).toMatch(/^EOPNOTSUPP: .*CONFIG_DEBUG_INFO_BTF/);
    expect(thrown(() => new KernelFunctions(undefined, { root }))).toMatch(/^EOPNOTSUPP: .*CONFIG_KALLSYMS/);
    files
      .write('sys/kernel/btf/vmlinux', 'no types')
      .write('proc/kallsyms', 'no symbols here, only a sentence');
    expect(thrown(() => KernelTypes.open({ root }).vmlinux)).toMatch(/^EINVAL: .*vmlinux/);
    expect(thrown(() => new KernelFunctions(undefined, { root }))).toMatch(/^EINVAL: .*kallsyms/);
  });

  it.each([
    '',
    '0000',
    'ffffffff81000010 t',
    'ffffffff81000010 t x',
    'ffffffff81000010 t x\t[',
    'ffffffff81000010 d x',
  ])('is read or refused with symbols that are cut short: %j', text => {
    const files = new KernelFiles().write('proc/kallsyms', text);
    left.push(files);
    const found = thrown(() => new KernelFunctions(undefined, { root: files.root }));
    expect(found).toMatch(/^(nothing|EINVAL: )/);
  });

  it('has no types for a module that has none, nor for a path', () => {
    const { types } = kernel();
    expect(types.modules()).toEqual(['kernel', 'some_mod']);
    expect(types.module('other_mod')).toBeUndefined();
    expect(types.module('../vmlinux')).toBeUndefined();
    expect(types.functionId('other_mod', 'plain')).toBeUndefined();
    expect(types.functionId('kernel', 'two_prototypes')).toBeUndefined();
    expect(types.functionId('kernel', 'same_types')).toBeGreaterThan(0);
    // Its own, not its base's.
    expect(types.functionId('some_mod', 'nothing')).toBeUndefined();
    expect(types.functionId('some_mod', 'plain')).toBeGreaterThan(types.vmlinux.typeCount);
  });
});

const hasKernel = existsSync('/sys/kernel/btf/vmlinux') && existsSync('/proc/kallsyms');

describe.skipIf(!hasKernel)('the kernel that runs here', () => {
  it('has functions with types, as its symbols say', () => {
    const types = KernelTypes.open();
    const functions = new KernelFunctions(types);
    const found = match(functions, 'vfs_*');
    const lines = readFileSync('/proc/kallsyms', 'latin1').match(/^\w+ [tTwW] vfs_[\w.]+$/gm) ?? [];
    expect(found.length).toBe(lines.filter(line => !line.includes('.cold')).length);
    expect(found.length).toBeGreaterThan(20);
    const [[read]] = functions.named(['vfs_read']);
    const { btf, args, returns } = functions.prototypeOf(read)!;
    expect(args!.map(id => btf!.typeName(id))).toEqual(['struct file *', 'char *', 'size_t', 'loff_t *']);
    expect(btf!.typeName(returns!)).toBe('ssize_t');
    expect(functions.check(read)).toBeUndefined();
    expect(functions.at(read.address)?.name).toBe('vfs_read');
  });

  it('is read whole within the time that a command may take to start', () => {
    const started = process.cpuUsage();
    const types = KernelTypes.open();
    const id = types.functionId('kernel', 'vfs_read');
    const functions = new KernelFunctions(types);
    const all = match(functions, '*');
    const { user } = process.cpuUsage(started);
    expect(id).toBeGreaterThan(0);
    expect(all.length).toBeGreaterThan(10_000);
    // 0.2 s on a quiet machine; what is awaited here is that nothing is quadratic.
    expect(user / 1000).toBeLessThan(3000);
  });
});
