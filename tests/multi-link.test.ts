/**
 * Plain links and multi-links on a live process, in the manner of the kernel's own tests of the tracing multi-link:
 * arguments, results and cookies of eight functions, both kinds at once, types that do not agree, order, update, info,
 * pins.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import type { BpfLink } from '../src/kernel/kernel.js';
import { randomNumbers } from '../src/kernel/process/maps/fixture.js';
import { BpfObject } from '../src/libbpf/object.js';
import type { ObjectProgram } from '../src/libbpf/object_program.js';
import { Pins } from '../src/libbpf/pins.js';
import { hasNameTable } from '../src/process/symbols/function_names.js';
import { SelectorSet } from '../src/process/symbols/selector.js';
import { missingBpfCompiler } from './support/bpf.js';
import { CALLED, type Eight, linkObject, openEight, plugin } from './support/eight.js';
import { changedCode } from './support/process.js';
import { missingCommand } from './support/skip.js';

const lacking = missingBpfCompiler() ?? missingCommand('gcc', 'pahole');
const SLEDS = ['-fpatchable-function-entry=5'];
/** What each of the eight is called with, all in 64 bits, and gives. */
const ARGUMENTS: readonly (readonly bigint[])[] = [
  [1n],
  [-2n, 3n],
  [4n, -5n, 6n],
  [7n, 8n, -9n, 10n],
  [11n, 12n, -13n, 14n, 15n],
  [16n, 17n, 18n, -19n, 20n, 21n],
];
const RESULTS = [2n, 1n, 5n, 16n, 39n, 73n];
const NAMES = ['eight_1', 'eight_2', 'eight_3', 'eight_4', 'eight_5', 'eight_6', 'eight_7', 'eight_8'];
const COOKIES = [1n, 7n, 2n, 3n, 4n, 5n, 6n, 8n];

/** An object of which only some programs are loaded, none attached by itself. */
function open(file: string, ...programs: readonly string[]): BpfObject {
  const object = BpfObject.open(linkObject(file));
  for (const program of object.programs) {
    program.autoload = programs.length === 0 || programs.includes(program.name);
    program.autoattach = program.autoload;
  }
  return object;
}

interface Seen {
  readonly calls: bigint;
  readonly cookie: bigint;
  readonly args: readonly bigint[];
  readonly result: bigint;
}

function seen({ kernel }: Eight, object: BpfObject, map: 'at_entry' | 'at_exit'): Map<string, Seen> {
  const names = new Map<bigint, string>();
  for (const { address, name } of kernel.functions(SelectorSet.parse(['eight_*', 'twin_*', 'counted'])))
    names.set(address, name);
  return new Map(
    [...object.map(map).entries()].map(({ key, value }) => [
      names.get(key as bigint)!,
      value as unknown as Seen,
    ]),
  );
}

/** The low bits that an argument's type has; those above are nobody's. */
function low(value: bigint): bigint {
  return BigInt.asIntN(8, value);
}

describe.skipIf(lacking !== undefined)('the eight functions', () => {
  for (const [what, flags] of [
    ['moved instructions', []],
    ['nop sleds', SLEDS],
  ] as const)
    test(`arguments and results are seen right by plain programs (${what})`, async () => {
      const eight = await openEight(flags);
      using object = open('eight', ...[1, 2, 3, 4, 5, 6, 7, 8].flatMap(n => [`entry_${n}`, `exit_${n}`]));
      object.load(eight.kernel);
      expect(object.attach()).toBe(16);
      for (const { name, link } of object.programs.filter(({ loaded }) => loaded))
        expect(link?.kind, name).toBe('tracing');
      expect(await eight.say('call')).toBe(CALLED);
      const { bss } = object.globals;
      expect([bss.entry_right, bss.exit_right, bss.wrong]).toEqual([Array(8).fill(1), Array(8).fill(1), 0]);
      object.destroy();
      expect(await eight.say('call')).toBe(CALLED);
      await eight.end();
    });

  test('arguments and results are seen right by multi programs, each with its own number of arguments', async () => {
    const eight = await openEight();
    using object = open('eight', 'six_at_entry', 'six_at_exit');
    object.load(eight.kernel);
    const names = NAMES.slice(0, 6);
    for (const program of ['six_at_entry', 'six_at_exit'])
      object.program(program).attachMulti({ names, cookies: COOKIES.slice(0, 6) });
    expect(await eight.say('call')).toBe(CALLED);
    for (const map of ['at_entry', 'at_exit'] as const)
      for (const [i, name] of names.entries()) {
        const { calls, cookie, args, result } = seen(eight, object, map).get(name)!;
        expect([calls, cookie], name).toEqual([1n, COOKIES[i]]);
        // Those that a function does not have are not there: the helper says so.
        expect(args.map(low), name).toEqual([...ARGUMENTS[i], 0n, 0n, 0n, 0n, 0n, 0n].slice(0, 6));
        if (map === 'at_exit') expect(BigInt.asIntN(32, result), name).toBe(RESULTS[i]);
      }
    await eight.end();
  });

  test('plain and multi programs on the same functions, attached and detached in any order, see every call', async () => {
    const eight = await openEight();
    const random = randomNumbers(0x8e16);
    using plain = open('eight', 'entry_1', 'exit_1', 'entry_7');
    using multi = open('eight', 'any_entry', 'takes_result');
    plain.load(eight.kernel);
    multi.load(eight.kernel);
    const expected = { entry: 0, exit: 0, seventh: 0, multi: 0n, results: 0n };
    const links = new Map<string, BpfLink>();
    const before = changedCode(eight.pid).changed;
    for (let step = 0; step < 60; step++) {
      const names = ['entry_1', 'exit_1', 'entry_7', 'any_entry', 'takes_result'];
      const name = names[random(names.length)];
      const link = links.get(name);
      if (link !== undefined) {
        link.detach();
        links.delete(name);
      } else {
        const object = plain.programs.some(p => p.name === name && p.loaded) ? plain : multi;
        const program = object.program(name);
        program.detach();
        if (object === plain) program.attach();
        else program.attachMulti({ names: name === 'any_entry' ? NAMES : ['eight_1', 'eight_2'] });
        links.set(name, program.link!);
      }
      expect(await eight.say('call')).toBe(CALLED);
      expected.entry += links.has('entry_1') ? 1 : 0;
      expected.exit += links.has('exit_1') ? 1 : 0;
      expected.seventh += links.has('entry_7') ? 1 : 0;
      expected.multi += links.has('any_entry') ? 8n : 0n;
      expected.results += links.has('takes_result') ? 2n : 0n;
      const { bss } = plain.globals;
      expect([bss.entry_right, bss.exit_right, bss.wrong]).toEqual([
        [expected.entry, 0, 0, 0, 0, 0, expected.seventh, 0],
        [expected.exit, 0, 0, 0, 0, 0, 0, 0],
        0,
      ]);
      const calls = [...seen(eight, multi, 'at_entry').values()].reduce((sum, one) => sum + one.calls, 0n);
      expect(calls).toBe(expected.multi);
      expect(multi.globals.bss.first_calls).toBe(expected.results);
    }
    for (const link of links.values()) link.detach();
    expect(changedCode(eight.pid).changed).toEqual(before);
    await eight.end();
  });
});

describe.skipIf(lacking !== undefined)('targets and cookies', () => {
  test('by names, BTF ids, addresses and selectors: each function has its cookie', async () => {
    const eight = await openEight();
    const { kernel } = eight;
    const functions = NAMES.map(name => kernel.functions(SelectorSet.parse([name]))[0]);
    const types = kernel.moduleTypes(functions[0].module)!;
    const btfIds = NAMES.map(name => ({ module: functions[0].module, id: types.find(name, 'func')! }));
    const cookieOf = new Map(NAMES.map((name, i) => [name, COOKIES[i]]));
    for (const targets of [
      { names: NAMES, cookies: COOKIES },
      { btfIds, cookies: COOKIES },
      { addresses: functions.map(({ address }) => address), cookies: COOKIES },
      { selectors: 'eight_*', cookie: ({ name }: { name: string }) => cookieOf.get(name)! },
    ]) {
      using object = open('eight', 'any_entry');
      object.load(kernel);
      const link = object.program('any_entry').attachMulti(targets);
      expect(link.kind).toBe('tracing_multi');
      expect(await eight.say('call')).toBe(CALLED);
      const found = seen(eight, object, 'at_entry');
      expect(new Map([...found].map(([name, { cookie, calls }]) => [name, [cookie, calls]]))).toEqual(
        new Map(NAMES.map((name, i) => [name, [COOKIES[i], 1n]])),
      );
    }
    await eight.end();
  });

  test('what there is not, what there is twice, and what is ambiguous is refused by name, or left out', async () => {
    const eight = await openEight();
    using object = open('eight', 'any_entry');
    object.load(eight.kernel);
    const program = object.program('any_entry');
    const refusal = (targets: Parameters<typeof program.attachMulti>[0]): string => {
      try {
        program.attachMulti(targets);
      } catch (cause) {
        const { code, message } = cause as { code: string; message: string };
        return `${code} ${message}`;
      }
      return 'attached';
    };
    const before = changedCode(eight.pid).changed;
    expect(refusal({ names: ['eight_1', 'nine'] })).toMatch(/^ENOENT there is no function nine;/);
    expect(refusal({ names: ['libc:eight_1'] })).toMatch(/^ENOENT there is no function libc:eight_1;/);
    expect(refusal({ selectors: 'nine_*' })).toMatch(/^ENOENT no function matches nine_\*/);
    expect(refusal({ addresses: [4096n] })).toMatch(/^ENOENT no function begins at 0x1000/);
    expect(refusal({ btfIds: [{ module: 'eight', id: 1 << 20 }] })).toMatch(
      /^EINVAL type 1048576 of eight is no function/,
    );
    expect(refusal({ btfIds: [{ module: 'nowhere.so', id: 1 }] })).toMatch(/^ENOENT module nowhere.so/);
    expect(refusal({ names: ['eight_1', 'eight_1'] })).toMatch(
      /^EEXIST eight:eight_1 can't be attached.*in the link already/,
    );
    expect(refusal({ names: ['counted', 'counted_too'] })).toMatch(
      /^EEXIST eight:counted_too .*in the link already: as counted/,
    );
    const modules = new Map<string, Set<string>>();
    for (const { name, module } of eight.kernel.functions(SelectorSet.parse(['*:*'])))
      modules.set(name, (modules.get(name) ?? new Set()).add(module));
    const [common] = [...modules].find(([, of]) => of.size > 1)!;
    expect(refusal({ names: [common] })).toMatch(
      new RegExp(`^EINVAL .* each have a function ${common}; name the module`),
    );
    expect(refusal({ names: NAMES, cookies: [1n] })).toMatch(/^EINVAL there are 1 cookies for 8 functions/);
    expect(changedCode(eight.pid).changed).toEqual(before);
    const link = program.attachMulti({
      names: ['eight_1', 'nine', 'counted', 'counted_too'],
      skipInvalid: true,
    });
    expect(link.targets.map(({ target }) => target.name)).toEqual(['eight_1', 'counted']);
    expect(program.skipped.map(({ function: name, reason }) => [name, reason])).toEqual([
      ['counted_too', 'duplicate'],
      ['nine', 'unknown-function'],
    ]);
    await eight.end();
  });

  test('more than 1,024 names are found by a hash table, fewer without one; both find the same', async () => {
    const eight = await openEight();
    const { kernel } = eight;
    const libc = kernel.functions(SelectorSet.parse(['libc:*']));
    const elf = libc[0].owner.elf;
    const names = libc
      .filter(
        ({ unresolved, aliases, fileAddress, address, owner }) =>
          unresolved === undefined && aliases.length === 1 && BigInt(fileAddress) + owner.bias === address,
      )
      .map(({ name }) => `libc:${name}`);
    expect(names.length).toBeGreaterThan(1024);
    const few = kernel.functionsNamed(names.slice(0, 1024));
    expect(hasNameTable(elf)).toBe(false);
    const many = kernel.functionsNamed(names.slice(0, 1025));
    expect(hasNameTable(elf)).toBe(true);
    // Two names whose IFUNCs chose the same code are both found.
    const copies = kernel.functionsNamed(['libc:memcpy', 'libc:memmove']).map(list => list.length);
    expect(copies).toEqual([1, 1]);
    const addresses = (found: typeof few): bigint[][] =>
      found.map(list => list.map(({ address }) => address));
    expect(addresses(many.slice(0, 1024))).toEqual(addresses(few));
    expect(few.every(list => list.length > 0)).toBe(true);
    await eight.end();
  });
});

/** Never called: the compiler refuses what can't be meant. */
export function wrongUse(program: ObjectProgram): void {
  // @ts-expect-error: by two ways at once
  program.attachMulti({ names: ['eight_1'], addresses: [1n] });
  // @ts-expect-error: by none
  program.attachMulti({ skipInvalid: true });
  // @ts-expect-error: a pattern has no list of cookies
  program.attachMulti({ selectors: 'eight_*', cookies: [1n] });
  // @ts-expect-error: a list has no function for its cookies
  program.attachTracing({ names: ['eight_1'], cookie: () => 1n });
  // @ts-expect-error: an id says nothing without its module
  program.attachMulti({ btfIds: [5] });
}

describe.skipIf(lacking !== undefined)('agreement of types', () => {
  test('the program is verified against the first function; others that do not agree are refused by name, or left out', async () => {
    const eight = await openEight();
    for (const [name, first, good, bad] of [
      [
        'takes_int',
        'eight_1',
        ['eight_2', 'twin_enum', 'twin_result', 'twin_void'],
        ['eight_3', 'eight_4', 'eight_7', 'twin_unsigned', 'twin_long', 'twin_none'],
      ],
      ['takes_node', 'eight_7', ['eight_8'], ['eight_1', 'eight_4', 'twin_struct']],
      [
        'takes_result',
        'eight_1',
        ['eight_2', 'eight_3', 'eight_8', 'twin_long'],
        ['eight_4', 'eight_5', 'twin_void'],
      ],
    ] as const) {
      using object = open('eight', name);
      object.load(eight.kernel);
      const program = object.program(name);
      expect(program.prog.accessedArgs.length, name).toBe(name === 'takes_result' ? 0 : 1);
      for (const other of bad)
        expect(() => program.attachMulti({ names: [first, other] }), `${name} ${other}`).toThrow(
          new RegExp(`eight:${other} can't be attached, so the link is not made: `),
        );
      const link = program.attachMulti({ names: [first, ...good, ...bad], skipInvalid: true });
      expect(link.targets.map(({ target }) => target.name)).toEqual([first, ...good]);
      expect(link.skipped.map(s => s.function)).toEqual([...bad]);
      for (const { reason, function: other } of link.skipped)
        if (other === 'twin_none') expect(reason).toBe('arguments');
        else expect(reason, `${name} ${other}`).toBe('prototype');
      expect(await eight.say('call')).toBe(CALLED);
      expect(object.globals.bss.first_calls).toBe(BigInt(1 + good.length));
    }
    await eight.end();
  });

  test('of several selectors, what the first one matches is what the others must agree with', async () => {
    const eight = await openEight();
    for (const [selectors, attached] of [
      // By address `eight_1` is before all others.
      ['eight_7,eight_*', ['eight_7', 'eight_8']],
      ['eight_8,eight_7', ['eight_8', 'eight_7']],
    ] as const) {
      using object = open('eight', 'takes_node');
      object.program('takes_node').setTarget(selectors);
      object.load(eight.kernel);
      object.attach();
      expect(object.program('takes_node').link?.targets.map(({ target }) => target.name)).toEqual(attached);
    }
    await eight.end();
  });

  test('an opaque function takes a program that reads numbers, and none that follows a pointer', async () => {
    const eight = await openEight();
    await eight.say(`load ${plugin()}`);
    const opaque = 'plugin:plugin_step';
    using numbers = open('eight', 'takes_int');
    numbers.load(eight.kernel);
    expect(eight.kernel.prototypeOf(eight.kernel.functionsNamed([opaque])[0][0])).toBeUndefined();
    expect(numbers.program('takes_int').attachMulti({ names: ['eight_1', opaque] }).targets).toHaveLength(2);
    using pointers = open('eight', 'takes_node');
    pointers.load(eight.kernel);
    expect(() => pointers.program('takes_node').attachMulti({ names: ['eight_7', opaque] })).toThrow(
      /plugin_step can't be attached.*nothing is known of its types, and the program takes its argument 1 for struct node \*/,
    );
    await eight.end();
  });

  test('what an IFUNC chose, written in assembler, is opaque with debug information and without', async () => {
    const eight = await openEight();
    using object = open('eight', 'takes_int');
    object.load(eight.kernel);
    const [[strlen]] = eight.kernel.functionsNamed(['libc:strlen']);
    expect(eight.kernel.prototypeOf(strlen)).toBeUndefined();
    expect(object.program('takes_int').attachMulti({ names: ['eight_1', 'libc:strlen'] }).attached).toBe(2);
    await eight.end();
  });

  test('attachTracing makes a multi program of one that was written for a function', async () => {
    const eight = await openEight();
    using object = open('eight', 'entry_1');
    object.load(eight.kernel);
    const program = object.program('entry_1');
    expect(() => program.attachMulti({ names: ['eight_1'] })).toThrow(/is for one function; attachTracing/);
    const own = program.attachTracing();
    expect(own.kind).toBe('tracing_multi');
    expect(own.targets.map(({ target }) => target.name)).toEqual(['eight_1']);
    await eight.say('call');
    expect(object.globals.bss.entry_right).toEqual([1, 0, 0, 0, 0, 0, 0, 0]);
    own.detach();
    const many = program.attachTracing({ names: ['eight_1', 'eight_2', 'eight_7'], skipInvalid: true });
    expect(many.targets.map(({ target }) => target.name)).toEqual(['eight_1', 'eight_2']);
    await eight.say('call');
    expect(object.globals.bss.entry_right).toEqual([2, 0, 0, 0, 0, 0, 0, 0]);
    expect(object.globals.bss.wrong).toBe(1);
    using multi = open('eight', 'takes_int');
    multi.load(eight.kernel);
    expect(() => multi.program('takes_int').attachTracing()).toThrow(/attach it with attachMulti/);
    await eight.end();
  });
});

describe.skipIf(lacking !== undefined)('order and results', () => {
  const order = ({ globals: { bss } }: BpfObject): string =>
    (bss.order as string).match(/../g)?.slice(0, Number(bss.noted)).join(' ') ?? '';

  test('entry programs, then modify-return until one gives a result, the function, then those at the return; each in attach order', async () => {
    const eight = await openEight();
    eight.kernel.allowModifyReturn = SelectorSet.parse(['maybe']);
    using object = open('order');
    object.load(eight.kernel);
    const { bss } = object.globals;
    const names = [
      'exit_b',
      'entry_c',
      'modify_b',
      'session_s',
      'entry_b',
      'sleeps_b',
      'modify_a',
      'exit_a',
      'entry_a',
      'sleeps_a',
    ];
    for (const name of names) expect(object.attachProgram(name), name).toBe(1);
    const asked = async (first: number, second: number): Promise<[string, string]> => {
      bss.order = '';
      bss.noted = 0;
      bss.results = 0;
      bss.first_gives = first;
      bss.second_gives = second;
      return [await eight.say('maybe 3'), order(object)];
    };
    expect(await asked(0, 0)).toEqual(['maybe 30', 'ec ei eb ea es mb ma xb xi xs xa']);
    expect((bss.seen as number[]).slice(0, 2)).toEqual([30, 30]);
    // The second one in the file was attached first: the other does not run.
    expect(await asked(0, -7)).toEqual(['maybe -7', 'ec ei eb ea es mb xb xi xs xa']);
    expect((bss.seen as number[]).slice(0, 2)).toEqual([-7, -7]);
    expect(await asked(41, 0)).toEqual(['maybe 41', 'ec ei eb ea es mb ma xb xi xs xa']);
    expect((bss.seen as number[]).slice(0, 2)).toEqual([41, 41]);
    object.program('entry_c').detach();
    object.program('entry_c').attach();
    object.program('modify_b').detach();
    expect(await asked(0, -7)).toEqual(['maybe 30', 'ei eb ea es ec ma xb xi xs xa']);
    await eight.end();
  });

  test('modify-return goes on functions that were allowed, and on no others', async () => {
    const eight = await openEight();
    using object = open('order', 'modify_a', 'modify_b');
    object.load(eight.kernel);
    expect(() => object.attachProgram('modify_a', { strict: true })).toThrow(
      /not among the functions that were allowed/,
    );
    expect(object.attachProgram('modify_b')).toBe(0);
    expect(object.program('modify_b').skipped).toMatchObject([{ function: 'maybe', reason: 'not-allowed' }]);
    eight.kernel.allowModifyReturn = SelectorSet.parse(['may*']);
    using again = open('order', 'modify_a');
    again.load(eight.kernel);
    expect(again.attach()).toBe(1);
    again.globals.bss.first_gives = 12;
    expect(await eight.say('maybe 3')).toBe('maybe 12');
    // The result must be of the type that it was verified for.
    eight.kernel.allowModifyReturn = SelectorSet.parse(['*']);
    using multi = open('eight', 'gives_result');
    multi.load(eight.kernel);
    expect(() => multi.program('gives_result').attachMulti({ names: ['eight_1', 'eight_4'] })).toThrow(
      /eight_4 can't be attached.*its result is u64/,
    );
    await eight.end();
  });
});

describe.skipIf(lacking !== undefined)('update, info, pin', () => {
  for (const [what, flags] of [
    ['moved instructions', []],
    ['nop sleds', SLEDS],
  ] as const)
    test(`update swaps the program under load: each call is seen by one of them (${what})`, async () => {
      const eight = await openEight(flags);
      using object = open('update', 'one', 'two', 'exit_one', 'exit_two');
      object.load(eight.kernel);
      const entry = object.program('one');
      const exit = object.program('exit_one');
      entry.attach();
      exit.attach();
      using alone = open('update', 'one', 'two');
      alone.load(eight.kernel);
      const [target] = eight.kernel.functions(SelectorSet.parse(['counted']));
      const plain = eight.kernel.linkCreate({ prog: alone.program('one').prog, target });
      const calls = 400_000;
      let done = false;
      const spinning = eight.say(`spin ${calls}`).then(answer => {
        done = true;
        return answer;
      });
      const programs = [
        [entry.link!, object.program('two'), entry],
        [exit.link!, object.program('exit_two'), exit],
        [plain, alone.program('two'), alone.program('one')],
      ] as const;
      let updates = 0;
      while (!done) {
        for (const [link, second, first] of programs) link.update((updates % 2 === 0 ? second : first).prog);
        updates++;
        await new Promise(resolve => setTimeout(resolve, 1));
      }
      expect(await spinning).toBe(`spun ${calls}`);
      const { bss } = object.globals;
      expect(updates).toBeGreaterThan(2);
      expect([bss.first, bss.second].every(count => (count as bigint) > 0n)).toBe(true);
      expect((bss.first as bigint) + (bss.second as bigint)).toBe(BigInt(4 * calls));
      expect((bss.exit_first as bigint) + (bss.exit_second as bigint)).toBe(BigInt(4 * calls));
      const { first, second } = alone.globals.bss;
      expect((first as bigint) + (second as bigint)).toBe(BigInt(4 * calls));
      await eight.end();
    });

  test('a link, its update and its end stop the process once each, however many functions it has', async () => {
    const eight = await openEight();
    using object = open('update', 'one', 'two');
    object.load(eight.kernel);
    // Finding them may stop it: IFUNCs are asked what they chose.
    const addresses = eight.kernel
      .functions(SelectorSet.parse(['libc:str*', 'eight_*']))
      .map(({ address }) => address);
    const stops = vi.spyOn(eight.kernel.process, 'stopAll');
    const program = object.program('one');
    const link = program.attachMulti({ addresses, skipInvalid: true });
    expect(link.targets.length).toBeGreaterThan(60);
    expect(stops).toHaveBeenCalledTimes(1);
    link.update(object.program('two').prog);
    expect(stops).toHaveBeenCalledTimes(2);
    link.detach();
    expect(stops).toHaveBeenCalledTimes(3);
    await eight.end();
  });

  test('update checks the program against every function, its type, and the program that it replaces', async () => {
    const eight = await openEight();
    using object = open('update', 'one', 'two', 'exit_one', 'takes_pointer');
    object.load(eight.kernel);
    const [one, two, exit, pointer] = ['one', 'two', 'exit_one', 'takes_pointer'].map(name =>
      object.program(name),
    );
    const link = one.attachMulti({ names: ['eight_7', 'counted'], cookies: [5n, 6n] });
    expect(() => link.update(exit.prog)).toThrow(/program exit_one is fexit, and link \d+ is for fentry/);
    expect(() => link.update(pointer.prog)).toThrow(
      /takes_pointer can't run on eight:counted, so link \d+ is not updated: its types/,
    );
    expect(() => link.update(two.prog, { oldProg: exit.prog })).toThrow(/runs program one, not exit_one/);
    expect(link.prog).toBe(one.prog);
    expect(await eight.say('spin 10')).toBe('spun 10');
    expect(object.globals.bss.first).toBe(40n);
    link.update(two.prog, { oldProg: one.prog });
    expect(link.prog).toBe(two.prog);
    await eight.say('spin 10');
    expect([object.globals.bss.first, object.globals.bss.second]).toEqual([40n, 40n]);
    const info = link.info();
    expect(info).toMatchObject({
      kind: 'tracing_multi',
      id: link.id,
      progId: two.prog.id,
      attachType: 'fentry',
      skipped: [],
      missed: 0n,
    });
    expect(info.targets).toEqual(
      ['eight_7', 'counted'].map((name, i) => ({
        module: 'eight',
        function: name,
        address: eight.kernel.functionsNamed([name])[0][0].address,
        cookie: [5n, 6n][i],
      })),
    );
    link.detach();
    expect(() => link.update(one.prog)).toThrow(/is detached/);
    await eight.end();
  });

  test('a pinned link stays when its object goes, and is found by its name', async () => {
    const eight = await openEight();
    const folder = mkdtempSync(join(tmpdir(), 'multitrace-pins-'));
    try {
      const pins = new Pins(folder);
      const object = open('update', 'one', 'two');
      object.load(eight.kernel, { pins });
      object.attach();
      const link = object.program('one').link!;
      pins.addLink(eight.kernel, 'counting', link);
      expect(() => pins.addLink(eight.kernel, 'counting', object.program('two').link!)).toThrow(
        /EEXIST|already/,
      );
      const before = changedCode(eight.pid).changed;
      object.destroy();
      expect(changedCode(eight.pid).changed.length).toBeGreaterThan(0);
      expect(changedCode(eight.pid).changed.length).toBeLessThanOrEqual(before.length);
      // Its program and its memory are there still.
      expect(await eight.say('spin 1000')).toBe('spun 1000');
      const found = pins.findLink(eight.kernel, 'counting')!;
      expect(found.info().targets.map(t => t.function)).toEqual(['counted']);
      pins.removeLink(eight.kernel, 'counting')!.detach();
      expect(pins.findLink(eight.kernel, 'counting')).toBeUndefined();
      expect(await eight.say('spin 10')).toBe('spun 10');
      await eight.end();
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
