/** Multi-links: one program on many functions. */

import type { BpfLink } from '../../../../src/kernel/kernel.js';
import type { BpfObject } from '../../../../src/libbpf/object.js';
import { type Case, has, type Subject, type TestFunction, testFunctions, thrown } from './subject.js';

interface Seen {
  readonly calls: bigint;
  readonly cookie: bigint;
  readonly count: bigint;
  readonly args: readonly bigint[];
  readonly result: bigint;
}

/** An object with one of its programs loaded. */
function openWith(subject: Subject, file: string, ...programs: readonly string[]): BpfObject {
  const object = subject.open(file);
  for (const name of programs) object.program(name).autoload = true;
  object.load(subject.kernel);
  return object;
}

function byName({ kernel }: Subject, object: BpfObject, map: string): Record<string, Seen> {
  const entries = [...object.map(map).entries()].map(
    ({ key, value }) =>
      [kernel.functionAt(key as bigint)?.name ?? `${key}`, value as unknown as Seen] as const,
  );
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

function callsOf(subject: Subject, object: BpfObject, map = 'at_entry'): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(byName(subject, object, map)).map(([name, { calls, cookie }]) => [name, [calls, cookie]]),
  );
}

function attachAll(subject: Subject, object: BpfObject, program: string): BpfLink {
  const functions = testFunctions(has(subject));
  return object.program(program).attachMulti({
    names: functions.map(({ name }) => name),
    cookies: functions.map(({ cookie }) => cookie),
  });
}

function each<T>(there: (name: string) => boolean, make: (one: TestFunction) => T): Record<string, T> {
  return Object.fromEntries(testFunctions(there).map(one => [one.name, make(one)]));
}

/** Those of whose arguments everything is known. */
function known({ args }: TestFunction): boolean {
  return args.length > 0;
}

function counted(calls: number): (there: (name: string) => boolean) => unknown {
  return there => each(there, ({ cookie }) => [`${calls}`, `${cookie}`]);
}

export const MULTI_CASES: readonly Case[] = [
  {
    name: 'one link on all test functions counts each call once, with the cookie of its function',
    see: async subject => {
      using object = openWith(subject, 'multi', 'count');
      const link = attachAll(subject, object, 'count');
      for (let i = 0; i < 3; i++) await subject.run();
      const info = link.info();
      return {
        counted: callsOf(subject, object),
        info: info.targets.map(({ function: name, cookie }) => [name, cookie]),
        kind: info.kind,
        skipped: info.skipped.length,
        missed: link.missed,
      };
    },
    expected: there => ({
      counted: counted(3)(there),
      info: testFunctions(there).map(({ name, cookie }) => [name, `${cookie}`]),
      kind: 'tracing_multi',
      skipped: 0,
      missed: '0',
    }),
  },
  {
    name: 'at entry, each function has its own number of arguments, and the helpers give them',
    see: async subject => {
      using object = openWith(subject, 'multi', 'look_at_entry');
      attachAll(subject, object, 'look_at_entry');
      await subject.run();
      const seen = byName(subject, object, 'at_entry');
      const functions = testFunctions(has(subject));
      return functions.map(({ name, args }) => {
        const { count, cookie } = seen[name];
        return [name, cookie, count, seen[name].args.slice(0, args.length)];
      });
    },
    expected: there =>
      testFunctions(there).map(({ name, args, cookie }) => [
        name,
        `${cookie}`,
        `${Math.max(args.length, 1)}`,
        args.map(String),
      ]),
  },
  {
    name: 'at return, the result and the first argument',
    see: async subject => {
      using object = openWith(subject, 'multi', 'look_at_exit');
      attachAll(subject, object, 'look_at_exit');
      await subject.run();
      const seen = byName(subject, object, 'at_exit');
      return testFunctions(has(subject)).map(one => {
        const { calls, count, cookie, args, result } = seen[one.name];
        return [one.name, calls, count, cookie, known(one) ? args[0] : 'address', BigInt.asIntN(32, result)];
      });
    },
    expected: there =>
      testFunctions(there).map(one => [
        one.name,
        '1',
        `${Math.max(one.args.length, 1)}`,
        `${one.cookie}`,
        known(one) ? `${one.args[0]}` : 'address',
        `${one.result}`,
      ]),
  },
  {
    name: 'a session on all of them: entry and return of each call, its eight bytes, its cookie, its result',
    see: async subject => {
      using object = openWith(subject, 'session', 'many');
      attachAll(subject, object, 'many');
      await subject.run();
      await subject.run();
      return Object.entries(byName(subject, object, 'seen'))
        .map(([name, seen]) => ({ name, ...seen }) as Record<string, unknown>)
        .map(({ first, ...seen }) => seen);
    },
    expected: there =>
      testFunctions(there)
        .map(({ name, args, cookie, result }) => ({
          ...{ name, entries: '2', returns: '2', cookie: `${cookie}`, wrong: '0', result: `${result}` },
          count: `${Math.max(args.length, 1)}`,
        }))
        .sort((a, b) => (a.name < b.name ? -1 : 1)),
  },
  {
    name: 'an update runs the other program with the same cookies; nothing runs once the link is detached',
    see: async subject => {
      using object = openWith(subject, 'multi', 'count', 'count_thousands');
      const link = attachAll(subject, object, 'count');
      await subject.run();
      const before = callsOf(subject, object);
      const [count, thousands] = ['count', 'count_thousands'].map(name => object.program(name).prog);
      const wrong = thrown(() => link.update(count, { oldProg: thousands }));
      link.update(thousands, { oldProg: count });
      const { progId, targets } = link.info();
      await subject.run();
      const after = callsOf(subject, object);
      link.detach();
      await subject.run();
      const same = JSON.stringify(callsOf(subject, object), text) === JSON.stringify(after, text);
      return { before, wrong, isNew: progId === thousands.id, on: targets.length > 6, after, same };
    },
    expected: there => ({
      before: counted(1)(there),
      wrong: 'EPERM',
      isNew: true,
      on: true,
      after: counted(1001)(there),
      same: true,
    }),
  },
  {
    name: 'two links on the same functions, and a plain one: each counts, in any order of detaching',
    see: async subject => {
      using first = openWith(subject, 'multi', 'count');
      using second = openWith(subject, 'multi', 'look_at_exit', 'count');
      using plain = subject.open('helpers');
      const links = [attachAll(subject, first, 'count'), attachAll(subject, second, 'look_at_exit')];
      plain.load(subject.kernel);
      plain.attach();
      await subject.run();
      links[0].detach();
      await subject.run();
      links.push(attachAll(subject, first, 'count'));
      plain.program('on_entry').detach();
      await subject.run();
      const { at_entry, at_exit } = plain.globals.bss as unknown as Record<string, Seen>;
      const total = (object: BpfObject, map: string) =>
        Object.values(byName(subject, object, map)).map(({ calls }) => calls);
      const counts = [...new Set(total(first, 'at_entry')), ...new Set(total(second, 'at_exit'))];
      return [counts, at_entry.calls, at_exit.calls];
    },
    expected: () => [['2', '3'], '2', '3'],
  },
  {
    name: 'what a program reads must be the same on every function; strict fails whole, skipInvalid leaves out',
    see: async subject => {
      using object = openWith(subject, 'multi', 'takes_int', 'takes_both', 'takes_result', 'takes_struct');
      const names = testFunctions(has(subject)).map(({ name }) => name);
      const skippedOf = (program: string, wanted = names) => {
        const link = object.program(program).attachMulti({ names: wanted, skipInvalid: true });
        const { skipped, targets } = link.info();
        return {
          on: targets.map(({ function: name }) => name).sort(),
          left: skipped.map(({ function: name, reason }) => `${name} ${reason}`),
        };
      };
      const strict = thrown(() => object.program('takes_int').attachMulti({ names }));
      await subject.run();
      const nothing = object.globals.bss.first_calls;
      const int = skippedOf('takes_int');
      await subject.run();
      const { first_calls, first_sum } = object.globals.bss;
      object.program('takes_int').detach();
      return {
        strict,
        nothing,
        int,
        calls: first_calls,
        sum: first_sum,
        both: skippedOf('takes_both', ['bpf_fentry_test2', 'bpf_fentry_test1', 'bpf_modify_return_test']),
        result: skippedOf('takes_result', ['bpf_fentry_test1', 'bpf_fentry_test9', 'bpf_fentry_test2']),
        struct: skippedOf('takes_struct', ['bpf_fentry_test8', 'bpf_fentry_test7', 'bpf_fentry_test4']),
      };
    },
    expected: there => ({
      strict: 'EINVAL',
      nothing: '0',
      int: {
        on: ['bpf_fentry_test1', 'bpf_fentry_test2'],
        left: testFunctions(there)
          .slice(2)
          .map(({ name }) => `${name} prototype`),
      },
      calls: '2',
      sum: '3',
      both: {
        on: ['bpf_fentry_test2'],
        left: ['bpf_fentry_test1 arguments', 'bpf_modify_return_test prototype'],
      },
      result: {
        on: ['bpf_fentry_test1', 'bpf_fentry_test2'],
        left: there('bpf_fentry_test9') ? ['bpf_fentry_test9 prototype'] : [],
      },
      struct: { on: ['bpf_fentry_test7', 'bpf_fentry_test8'], left: ['bpf_fentry_test4 prototype'] },
    }),
  },
  {
    name: 'errors: unknown functions, one named twice, a wrong address, after the program was let go of',
    see: async subject => {
      const { kernel } = subject;
      using object = openWith(subject, 'multi', 'count');
      const program = object.program('count');
      const [target] = kernel.functionsNamed(['bpf_fentry_test1'])[0];
      const wrong = { ...target, name: 'no_such_function', address: target.address + 1n };
      const create = (targets: readonly (typeof target)[], skipInvalid = false, prog = program.prog) =>
        kernel.linkCreate({ prog, targets: targets.map(one => ({ target: one, cookie: 0n })), skipInvalid });
      const left = (link: BpfLink) => {
        const { skipped, targets } = link.info();
        link.detach();
        return [targets.length, skipped.map(({ function: name, reason }) => `${name} ${reason}`)];
      };
      const named = ['bpf_fentry_test1', 'no_such_function'];
      const found = {
        unknown: thrown(() => program.attachMulti({ names: named })),
        unknownLeft: left(program.attachMulti({ names: named, skipInvalid: true })),
        twice: thrown(() => program.attachMulti({ names: ['bpf_fentry_test1', 'bpf_fentry_test1'] })),
        twiceByAddress: thrown(() => create([target, target])),
        twiceLeft: left(create([target, target], true)),
        wrong: thrown(() => create([target, wrong])),
        wrongLeft: left(create([target, wrong], true)),
        cookies: thrown(() => program.attachMulti({ names: ['bpf_fentry_test1'], cookies: [1n, 2n] })),
      };
      await subject.run();
      const calls = Object.keys(byName(subject, object, 'at_entry')).length;
      const { prog } = program;
      prog.free();
      return { ...found, calls, freed: thrown(() => create([target], false, prog)) };
    },
    expected: () => ({
      unknown: 'ENOENT',
      unknownLeft: [1, []],
      twice: 'EEXIST',
      twiceByAddress: 'EEXIST',
      twiceLeft: [1, ['bpf_fentry_test1 duplicate']],
      wrong: 'EINVAL',
      wrongLeft: [1, ['no_such_function unknown-function']],
      cookies: 'EINVAL',
      calls: 0,
      freed: 'EBADF',
    }),
  },
  {
    name: 'a link keeps its program when who loaded it lets go of it',
    see: async subject => {
      using object = openWith(subject, 'multi', 'count');
      const functions = subject.kernel.functionsNamed(['bpf_fentry_test5'])[0];
      const { prog } = object.program('count');
      const link = subject.kernel.linkCreate({
        prog,
        targets: functions.map(target => ({ target, cookie: 9n })),
      });
      prog.free();
      await subject.run();
      const seen = callsOf(subject, object);
      link.detach();
      await subject.run();
      return [seen, callsOf(subject, object)];
    },
    expected: () => Array(2).fill({ bpf_fentry_test5: ['1', '9'] }),
  },
  {
    name: 'a program for one function goes to those that agree with it, by attachTracing',
    see: async subject => {
      using object = subject.open('helpers');
      for (const program of object.programs) program.autoload = program.name === 'on_fewer';
      object.load(subject.kernel);
      object.program('on_fewer').attachTracing({ names: ['bpf_fentry_test2', 'bpf_fentry_test1'] });
      await subject.run();
      return (object.globals.bss.none as { calls: bigint }).calls;
    },
    expected: () => '2',
  },
];

function text(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `${value}` : value;
}
