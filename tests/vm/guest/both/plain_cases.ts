/** Plain programs: one on one function. */

import { type Case, has, type Subject, testFunctions, thrown } from './subject.js';

/** Runs an object's programs once over the test functions; what `look` makes of it. */
async function once<T>(
  subject: Subject,
  name: string,
  look: (object: ReturnType<Subject['open']>) => T | Promise<T>,
  before: (object: ReturnType<Subject['open']>) => void = object => object.attach(),
): Promise<T> {
  using object = subject.open(name);
  object.load(subject.kernel);
  before(object);
  await subject.run();
  return await look(object);
}

interface Seen {
  readonly calls: bigint;
  readonly args: readonly bigint[];
  readonly result: bigint;
}

/** An array of seven words. */
function seven(...words: readonly number[]): string[] {
  return [...words, 0, 0, 0, 0, 0, 0, 0].slice(0, 7).map(String);
}

function seen(calls: number, args: readonly number[], result = 0): unknown {
  return { calls: `${calls}`, args: seven(...args), result: `${result}` };
}

export const PLAIN_CASES: readonly Case[] = [
  {
    name: 'arguments of every size and sign, at entry and at return, and results',
    see: subject =>
      once(subject, 'arguments', object => {
        const { entry, returned } = object.globals.bss as unknown as Record<string, Seen[]>;
        return { entry: entry.slice(1), returned: returned.slice(1) };
      }),
    expected: there => {
      const functions = testFunctions(() => true);
      const there2 = there('bpf_modify_return_test2');
      const entry: unknown[] = functions.map(({ name, args }) =>
        there(name) && name !== 'bpf_fentry_test9' ? seen(1, args) : seen(0, []),
      );
      entry[7] = seen(1, [1, 0, 0]);
      entry.push(there('bpf_modify_return_test') ? seen(1, [1, 2]) : seen(0, []), seen(0, []));
      const returned: unknown[] = functions.map(({ name, args, result }) =>
        there(name) && name !== 'bpf_fentry_test8' ? seen(1, args, result) : seen(0, []),
      );
      if (there('bpf_fentry_test9')) returned[8] = seen(1, [0, 0]);
      returned.push(
        there('bpf_modify_return_test') ? seen(1, [1, 3], 4) : seen(0, []),
        there2 ? seen(1, [1, 0, 3, 4, 5, 6, 7], 29) : seen(0, []),
      );
      return { entry, returned };
    },
  },
  {
    name: 'negative numbers of 32 and 64 bits, a string and a structure that system calls are given',
    see: async subject => {
      using object = subject.open('arguments');
      const wanted = ['on_getpgid', 'on_fallocate', 'on_open'];
      for (const program of object.programs) program.autoload = wanted.includes(program.name);
      object.load(subject.kernel);
      object.attach();
      const results = [
        await subject.pgid(-5),
        await subject.allocate(-(2 ** 40)),
        await subject.openNothing(),
      ];
      const { call, pgid_calls, allocate_calls, open_calls } = object.globals.bss;
      return { results, call, pgid_calls, allocate_calls, open_calls };
    },
    expected: () => ({
      results: [-3, -22, -2],
      call: {
        pid: '-5',
        pid_result: '-3',
        offset: `${-(2 ** 40)}`,
        length: '1',
        mode: '0',
        allocate_result: '-22',
        dfd: '-100',
        open_result: '-2',
        flags: '2',
        name: '/no/such/file',
      },
      pgid_calls: '1',
      allocate_calls: '1',
      open_calls: '1',
    }),
  },
  {
    name: 'bpf_get_func_arg, _ret, _arg_cnt, _ip and cookies in plain programs',
    see: subject =>
      once(
        subject,
        'helpers',
        object => {
          const { at_entry, at_exit, none } = object.globals.bss as unknown as Record<
            string,
            Seen & { ip: bigint; got_result: bigint; no_result: bigint }
          >;
          const named = ({ ip, ...rest }: { ip: bigint }) => ({
            ...rest,
            function: subject.kernel.functionAt(ip)?.name,
          });
          return [named(at_entry), named(at_exit), named(none)];
        },
        object => {
          object.attachProgram('on_entry', { cookie: () => 0xfeed_face_cafe_beefn });
          object.attachProgram('on_exit', { cookie: () => 1n });
          object.attachProgram('on_fewer');
        },
      ),
    expected: () => {
      const six = {
        calls: '1',
        count: '6',
        args: ['16', '17', '18', '19', '20', '21'],
        beyond: '-22',
        no_result: '0',
        got_result: '0',
        function: 'bpf_fentry_test6',
      };
      return [
        { ...six, cookie: `${0xfeed_face_cafe_beefn}`, result: '0' },
        { ...six, cookie: '1', result: '111' },
        {
          ...six,
          function: 'bpf_fentry_test2',
          cookie: '0',
          count: '2',
          args: ['2', '3', '0', '0', '0', '0'],
          result: '0',
        },
      ];
    },
  },
  {
    name: 'a modify-return program lets a function run, or gives its result; programs at entry and return see it',
    unable: ({ modifiesReturn }) =>
      modifiesReturn ? undefined : 'this kernel lets no result be changed (CONFIG_FUNCTION_ERROR_INJECTION)',
    see: async subject => {
      using object = subject.open('modify');
      object.load(subject.kernel);
      object.attach();
      const { bss } = object.globals;
      const runs = [await subject.run()];
      const untouched = { ...bss };
      bss.give = 40;
      runs.push(await subject.run());
      const replaced = { ...bss };
      bss.give = -7;
      runs.push(await subject.run());
      const negative = bss.result_at_exit;
      object.program('modify').detach();
      runs.push(await subject.run());
      return { runs: runs.map(run => run >>> 0), untouched, replaced, negative, after: { ...bss } };
    },
    expected: there => {
      // The second function gives 29; each that ran has changed what its argument points to.
      const second = there('bpf_modify_return_test2') ? [29, 1] : [0, 0];
      const run = (result: number, changed: number) =>
        (((changed + second[1]) << 16) | (result + second[0])) >>> 0;
      const rest = { argument: 1 };
      return {
        // -7 and 29 is 22; alone its upper half is kept.
        runs: [run(4, 1), run(40, 0), run(-7, 0), run(4, 1)],
        untouched: { give: 0, modified: 1, entered: 1, left: 1, result_at_exit: 4, ...rest },
        replaced: { give: 40, modified: 2, entered: 2, left: 2, result_at_exit: 40, ...rest },
        negative: -7,
        after: { give: -7, modified: 3, entered: 4, left: 4, result_at_exit: 4, ...rest },
      };
    },
  },
  {
    name: 'a session hands eight bytes from entry to return, and says which it is',
    see: async subject => {
      using object = subject.open('session');
      object.program('plain').autoload = true;
      object.load(subject.kernel);
      object.attachProgram('plain', { cookie: () => 77n });
      await subject.run();
      await subject.run();
      return [...object.map('seen').entries()].map(({ key, value }) => [
        subject.kernel.functionAt(key as bigint)?.name,
        value,
      ]);
    },
    expected: () => [
      [
        'bpf_fentry_test2',
        { entries: '2', returns: '2', cookie: '77', count: '2', first: '2', wrong: '0', result: '5' },
      ],
    ],
  },
  {
    name: 'per-CPU and other maps, ring buffer, maps of maps, bpf_loop, locks, formats, variables of every section',
    see: async subject => {
      using object = subject.open('maps');
      object.globals.rodata.rounds = 6;
      object.load(subject.kernel);
      object.attach();
      const ring = object.ringBuffer('events');
      const events: unknown[] = [];
      for (let i = 0; i < 6; i++) await subject.run();
      ring.consume(event => events.push(event));
      const sum = (values: unknown) => (values as bigint[]).reduce((all, one) => all + one, 0n);
      const { data, bss } = object.globals;
      return {
        data: { calls: data.calls, negative: data.negative },
        bss: { looped: bss.looped, inner_hits: bss.inner_hits, text: bss.text },
        percpu: [sum(object.map('percpu').get(0)), sum(object.map('percpu').get(1))],
        percpuHash: [...object.map('percpu_hash').entries()].map(({ key, value }) => [key, sum(value)]),
        lru: [...object.map('lru').entries()].map(({ key, value }) => `${key} ${value}`).sort(),
        queue: [1, 2, 3, 4, 5].map(() => object.map('queue').take() ?? 'empty'),
        events,
        inner: ['first_inner', 'second_inner'].map(name => object.map(name).get(0)),
        guarded: object.map('guarded').get(0),
      };
    },
    expected: () => ({
      data: { calls: '106', negative: -3 },
      bss: { looped: '90', inner_hits: '12', text: '106/-3' },
      percpu: ['0', '36'],
      percpuHash: [[4, '10']],
      lru: ['101 5', '102 5', '103 5', '104 5', '105 5', '106 5'],
      queue: [103, 104, 105, 106, 'empty'],
      events: [101, 102, 103, 104, 105, 106].map(number => ({ number, word: 'abc', sum: '15' })),
      inner: ['6', '18'],
      guarded: { lock: { val: 0 }, a: 6, b: -21 },
    }),
  },
  {
    name: 'tail calls to a program of the array, and to an empty place',
    see: subject =>
      once(
        subject,
        'tail',
        async object => {
          await subject.run();
          await subject.run();
          return object.globals.bss;
        },
        object => object.attachProgram('calls'),
      ),
    expected: () => ({ called: '3', tailed: '1', fell_through: '2' }),
  },
  {
    name: 'a link updated, detached, made again: each call is seen by the program that is attached then',
    see: async subject => {
      using object = subject.open('helpers');
      for (const program of object.programs) program.autoload = program.name === 'on_fewer';
      object.load(subject.kernel);
      const program = object.program('on_fewer');
      program.attach();
      await subject.run();
      program.detach();
      await subject.run();
      program.attach();
      await subject.run();
      const { kernel } = subject;
      const target = kernel.functionsNamed(['bpf_fentry_test4'])[0][0];
      return {
        calls: (object.globals.bss.none as { calls: bigint }).calls,
        there: has(subject)('bpf_fentry_test4'),
        target: target.name,
      };
    },
    expected: () => ({ calls: '2', there: true, target: 'bpf_fentry_test4' }),
  },
  {
    name: 'errors: no such function, a detached link, a program that was let go of',
    see: async subject => {
      const { kernel } = subject;
      using object = subject.open('modify');
      for (const program of object.programs) program.autoload = program.name === 'before';
      object.load(kernel);
      const program = object.program('before');
      program.attach();
      const { prog, link } = program;
      link!.detach();
      const [target] = kernel.functionsNamed(['bpf_modify_return_test'])[0];
      const nothing = { ...target, name: 'no_such_function', address: 0x1234n };
      const errors = [
        thrown(() => kernel.linkCreate({ prog, target: nothing })),
        thrown(() => link!.update(prog)),
      ];
      prog.free();
      errors.push(thrown(() => kernel.linkCreate({ prog, target })));
      return errors;
    },
    expected: () => ['EINVAL', 'EINVAL', 'EBADF'],
  },
];
