/**
 * `multitrace verify`: what clang makes of correct C is accepted, without a process; what must not run is refused with
 * the sentence, the instruction, the source line, what the registers held and what to do. The programs that are refused
 * are in tests/bpf/verify, each beside the nearest one that is accepted.
 */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  BPF_PROGRAMS,
  bpfPrograms,
  CPU_VERSIONS,
  compileBpf,
  compileBpfFile,
  compileBpfTarget,
  EXAMPLES,
  missingBpfCompiler,
} from './support/bpf.js';
import { describeRun, multitrace, type Run } from './support/command.js';
import { TARGETS } from './support/paths.js';
import { missingCommand } from './support/skip.js';

interface Program {
  program: string;
  section: string;
  accepted: boolean;
  instructions: number;
  processed: number;
  peakStates: number;
  timeMs: number;
  accessedArgs: number[];
  error: string | null;
  refusal: {
    sentence: string;
    instruction: { slot: number; text: string } | null;
    source: { file: string; line: number; text: string } | null;
    registers: string | null;
    acquired: { slot: number; source: { line: number } | null } | null;
    advice: string | null;
  } | null;
  log: string;
  file: string;
  target: { module: string; function: string; prototype: string } | null;
  opaque: string | null;
}

/** A program that is refused, and what is said of it. */
interface Case {
  readonly program?: string;
  readonly accepted: string;
  readonly sentence: RegExp;
  readonly registers?: RegExp;
  readonly advice?: RegExp;
  /** No single line is to blame. */
  readonly nowhere?: boolean;
}

const CASES: Record<string, Case> = {
  null_value: {
    accepted: 'on_add2_tested',
    sentence: /map_value_or_null/,
    registers: /^R0=map_value_or_null\(.*map=counts/,
    advice: /test the result of the look-up/,
  },
  out_of_bounds: {
    accepted: 'on_add2_bounded',
    sentence: /invalid access to map value, value_size=128 off=248 size=8/,
    registers: /umax=248/,
    advice: /Bound the index/,
  },
  endless_loop: {
    accepted: 'on_add2_counted',
    sentence: /infinite loop detected/,
    advice: /count to a bound/,
  },
  leaked_record: {
    accepted: 'on_add2_submitted',
    sentence: /^Unreleased reference id=1 alloc_insn=\d+/,
    advice: /bpf_ringbuf_discard/,
  },
  stack_overrun: {
    program: 'on_greet',
    accepted: 'on_greet_whole',
    sentence: /invalid write to stack R1 off=-16 size=32/,
    registers: /^R1=fp-16/,
    advice: /over the end of the stack/,
  },
  variable_stack: {
    accepted: 'on_add2_bounded',
    sentence: /invalid variable-offset read from stack R\d+ min_off=-16 max_off=47 size=1/,
    registers: /umax=63/,
    advice: /Bound the index/,
  },
  unwritten_register: {
    accepted: 'on_add2_written',
    sentence: /^R9 !read_ok$/,
    advice: /give the variable a value/,
  },
  number_as_pointer: {
    accepted: 'on_add2_read',
    sentence: /R1 invalid mem access 'scalar'/,
    registers: /^R1=scalar/,
    advice: /bpf_probe_read_user/,
  },
  bad_result: {
    accepted: 'on_add2_changed',
    sentence: /R0 should have been in \[0, 0\] for fentry/,
    registers: /^R0=/,
    advice: /return 0/,
  },
  read_only: {
    accepted: 'on_add2_unused',
    sentence: /write into map forbidden/,
    registers: /rodata/,
    advice: /const/,
  },
  unbounded_size: {
    program: 'on_six',
    accepted: 'on_six_bounded',
    sentence: /R2 (min value is negative|unbounded memory access)/,
    registers: /^R2=scalar/,
    advice: /Bound the/,
  },
  no_helper: {
    accepted: 'on_add2_id',
    sentence: /cannot use helper bpf_get_current_task#35: a process has no task_struct/,
  },
  past_context: {
    accepted: 'on_add2_second',
    sentence: /^invalid bpf_context access off=48 size=8: the traced function has 6 arguments$/,
    registers: /^R1=ctx\(\)/,
    advice: /read just those that it has/,
  },
  sleeps: {
    program: 'on_greet',
    accepted: 'on_greet_asleep',
    sentence: /might sleep in a non-sleepable prog: bpf_copy_from_user#148/,
    advice: /fentry\.s/,
  },
  given_back: {
    accepted: 'on_add2_before',
    sentence: /^R\d !read_ok: what it pointed to was given back$/,
    advice: /Use it before it is submitted/,
  },
  large_stack: {
    accepted: 'on_add2_small',
    sentence: /combined stack size of calls is 640/,
    advice: /per-CPU array/,
    nowhere: true,
  },
};

const lacking = missingBpfCompiler() ?? missingCommand('gcc');
const VERIFY = join(BPF_PROGRAMS, 'verify');
const source = (name: string): string => join(VERIFY, `${name}.bpf.c`);
const object = (name: string): string => compileBpfFile(source(name));

function parse(done: Run): Program[] {
  expect(done.stdout.trimEnd(), describeRun(done)).not.toContain('\n');
  const report = JSON.parse(done.stdout) as { command: string; accepted: boolean; programs: Program[] };
  expect(report.command).toBe('verify');
  expect(report.accepted).toBe(report.programs.every(({ accepted }) => accepted));
  expect(done.status, describeRun(done)).toBe(report.accepted ? 0 : 1);
  return report.programs;
}

async function verify(...args: string[]): Promise<Program[]> {
  return parse(await multitrace(['verify', '--json', ...args]));
}

/** The line of a source file that has a mark. */
function lineOf(name: string, mark: string): number {
  const at = readFileSync(source(name), 'utf8')
    .split('\n')
    .findIndex(line => line.includes(`/* ${mark} */`));
  expect(at, `${name} has no ${mark}`).toBeGreaterThanOrEqual(0);
  return at + 1;
}

describe.skipIf(lacking)(`multitrace verify${lacking === undefined ? '' : ` (${lacking})`}`, () => {
  let scratch: string;
  let library: string;
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), 'multitrace-verify-'));
    library = join(scratch, 'libaccount.so');
    const flags = ['-O2', '-g', '-shared', '-fPIC', '-DLIBRARY', '-DLAYOUT=1'];
    execFileSync('gcc', [...flags, '-o', library, join(TARGETS, 'layouts.c')], { stdio: 'pipe' });
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  const examples = readdirSync(EXAMPLES).filter(name => name.endsWith('.bpf.c'));
  test.skipIf(missingCommand('pahole')).each(CPU_VERSIONS)(
    'every program of tests/bpf and examples is accepted, cpu %s',
    async cpu => {
      const files = [
        ...bpfPrograms().map(name => compileBpf(name, cpu)),
        ...examples.map(name => compileBpfFile(join(EXAMPLES, name), cpu)),
      ];
      const programs = await verify(...files, '--file', compileBpfTarget(), '--module', library);
      expect(programs.filter(({ accepted }) => !accepted)).toEqual([]);
      expect(new Set(programs.map(({ file }) => file))).toEqual(new Set(files));
      for (const one of programs) {
        expect(one.instructions).toBeGreaterThan(0);
        expect(one.processed).toBeGreaterThan(0);
        expect(one.peakStates).toBeGreaterThanOrEqual(0);
        expect(one.timeMs).toBeGreaterThan(0);
        expect([one.error, one.refusal, one.log]).toEqual([null, null, '']);
        expect(one.target === null, 'a target or why there is none').toBe(one.opaque !== null);
      }
      const add2 = programs.find(({ file, program }) => file.includes('/hash.bpf') && program === 'on_add2');
      expect(add2?.target).toEqual({
        module: basename(compileBpfTarget()),
        function: 'add2',
        prototype: 'int target:add2(int, int)',
      });
    },
  );

  describe('refusals', () => {
    let programs: Program[];
    beforeAll(async () => {
      programs = await verify(...Object.keys(CASES).map(object));
    });

    test.each(Object.entries(CASES))('%s', (name, wanted) => {
      const own = programs.filter(({ file }) => basename(file) === `${name}.bpf.o`);
      expect(own).toHaveLength(2);
      const twin = own.find(({ program }) => program === wanted.accepted);
      expect(twin, twin?.error ?? '').toMatchObject({ accepted: true, error: null, refusal: null });
      const refused = own.find(({ program }) => program === (wanted.program ?? 'on_add2'));
      expect(refused).toMatchObject({ accepted: false, accessedArgs: [] });
      const { refusal, error } = refused as Program;
      expect(refusal?.sentence).toMatch(wanted.sentence);
      // The sentence alone: what else there is has a place of its own.
      expect(refusal?.sentence).not.toMatch(/^insn|R\d=|\.bpf\.c/);
      expect(error).toContain(refusal?.sentence);
      // The program has a field of its own.
      expect(error).not.toMatch(/^program /);
      if (wanted.advice === undefined) expect(refusal?.advice).toBeNull();
      else expect(refusal?.advice).toMatch(wanted.advice);
      if (wanted.registers === undefined) expect(refusal?.registers).toBeNull();
      else expect(refusal?.registers).toMatch(wanted.registers);
      if (wanted.nowhere) {
        expect(refusal).toMatchObject({ instruction: null, source: null });
        return;
      }
      expect(refusal?.instruction?.text.length).toBeGreaterThan(0);
      expect(refusal?.source?.file).toBe(source(name));
      // What is checked at the end is blamed on a line of the function, not on what led there.
      if (/^(leaked_record|bad_result)$/.test(name)) expect(refusal?.source?.line).toBeGreaterThan(2);
      else expect(refusal?.source?.line).toBe(lineOf(name, 'HERE'));
    });

    test('where a record was reserved that is not given back', () => {
      const leak = programs.find(({ file, accepted }) => file.includes('leaked_record') && !accepted);
      expect(leak?.refusal?.acquired?.source?.line).toBe(lineOf('leaked_record', 'ACQUIRED'));
    });

    test('a function whose argument is a pointer by its types may be read through it', async () => {
      const options = ['--file', compileBpfTarget(), '--target', 'on_add2=read_outer'];
      const [typed] = await verify(object('number_as_pointer'), ...options);
      expect(typed).toMatchObject({ program: 'on_add2', target: { function: 'read_outer' } });
      expect(typed?.refusal?.sentence ?? '').not.toMatch(/'scalar'/);
    });
  });

  test('a refusal for a person', async () => {
    const done = await multitrace(['verify', object('null_value')]);
    expect(done.status).toBe(1);
    expect(done.stderr).toBe('');
    const lines = done.stdout.split('\n');
    expect(lines[0]).toMatch(/^PROGRAM +SECTION +INSNS +PROCESSED +STATES +MS +ARGS +VERIFIED FOR$/);
    expect(lines[1]).toMatch(/^on_add2 +fentry\/add2 +refused +11 /);
    expect(lines[2]).toMatch(/^on_add2_tested +fentry\/add2 +accepted +12 +11 +1 +[\d.]+ +0 +six integers$/);
    const said = lines.slice(lines.findIndex(line => line.includes(' is refused: ')));
    expect(said[0]).toMatch(/^on_add2 \(fentry\/add2\) is refused: .*map_value_or_null/);
    const line = lineOf('null_value', 'HERE');
    expect(said[1]).toBe(
      `  tests/bpf/verify/null_value.bpf.c:${line}: __sync_fetch_and_add(count, 1); /* HERE */`,
    );
    expect(said[2]).toMatch(/^ {2}instruction \d+: lock \*\(u64 \*\)\(r0 \+0\) \+= r1$/);
    expect(said[3]).toMatch(/^ {2}with R0=map_value_or_null/);
    expect(said[4]).toMatch(/^ {2}The key may not be there/);
    expect(done.stdout).toContain('the main program is not known; give it with --file');
  });

  test('accessed arguments', async () => {
    const programs = await verify(object('accessed_arguments'), '--file', compileBpfTarget());
    expect(Object.fromEntries(programs.map(({ program, accessedArgs }) => [program, accessedArgs]))).toEqual({
      none: [],
      second_and_fifth: [1, 4],
      by_helper: [3],
      by_subprogram: [0, 2],
      by_variable_index: [0, 1, 2, 3, 4, 5],
      result_alone: [],
    });
  });

  test('what is refused before the verifier, and programs that are not loaded by themselves', async () => {
    const programs = await verify(object('sections'));
    expect(programs.map(({ program, accepted }) => [program, accepted])).toEqual(
      expect.arrayContaining([
        ['of_a_kernel', false],
        ['calls_nothing', false],
        ['not_loaded_by_itself', true],
      ]),
    );
    const error = (name: string) => programs.find(({ program }) => program === name)?.error;
    expect(error('of_a_kernel')).toMatch(/kprobe/);
    expect(programs[0]).toMatchObject({ processed: 0, peakStates: 0, target: null, opaque: null, log: '' });
    expect(error('calls_nothing')).toMatch(/bpf_no_such_function/);
  });

  test('a map that can not be refuses every program of its object', async () => {
    const programs = await verify(object('bad_map'), object('read_only'));
    const of = (name: string) => programs.filter(({ file }) => file === object(name));
    expect(of('bad_map').map(({ accepted }) => accepted)).toEqual([false, false]);
    for (const { error } of of('bad_map')) expect(error).toMatch(/events.*power of two/);
    expect(of('read_only').map(({ accepted }) => accepted)).toEqual([false, true]);
  });

  test('settings decide which code is walked', async () => {
    const [, unused] = await verify(object('read_only'), '--set', 'limit=6');
    expect(unused).toMatchObject({ program: 'on_add2_unused', accepted: false });
    expect(unused?.refusal?.sentence).toMatch(/R0 should have been/);
  });

  test('logs: none, the path that was refused, every instruction', async () => {
    const logs = async (...args: string[]) =>
      (await verify(object('null_value'), ...args)).map(({ log }) => log);
    expect(await logs()).toEqual(['', '']);
    const [path, accepted] = await logs('--log', '1');
    expect(path).toMatch(/@ null_value\.bpf\.c:\d+/);
    expect(accepted).toMatch(/processed 11 insns/);
    const [, every] = await logs('--log', '2');
    expect(every?.split('\n').filter(line => /^\d+: /.test(line))).toHaveLength(12);
    // What an instruction changed, on the stack too.
    expect(every).toMatch(/^\d+: \*\(u32 \*\)\(r10 -\d\) = r\d +; fp-8=/m);
    const statistics = await logs('--log', '4');
    expect(statistics[0]).toMatch(/^R0 invalid mem access|^BPF_ATOMIC stores into R0/);
    expect(statistics[1]).toMatch(
      /^verification time \d+ usec\nprocessed 11 insns \(limit 1000000\) total_states/,
    );
    const done = await multitrace(['verify', object('null_value'), '--log', '1']);
    expect(done.stdout).toContain('\nlog of on_add2:\n');
  });

  test('libraries are found by name, or why not', async () => {
    const of = async (selector: string, ...args: string[]) => {
      const target = ['--target', `none=${selector}`];
      const programs = await verify(object('accessed_arguments'), ...target, ...args);
      return programs.find(({ program }) => program === 'none') as Program;
    };
    expect((await of('libaccount:account_touch', '--module', library)).target).toMatchObject({
      module: 'libaccount.so',
      function: 'account_touch',
    });
    expect((await of('libaccount:account_touch')).opaque).toMatch(/no library libaccount .* --module/);
    expect((await of('libaccount:no_such', '--module', library)).opaque).toMatch(/no function .* matches/);
    expect((await of('add2')).opaque).toMatch(/--file/);
    expect((await of('*:malloc')).opaque).toMatch(/libraries here; give those that are meant/);
  });

  test.each([
    ['no file', [], 2, /missing required argument/],
    ['a log level that there is not', ['x.bpf.o', '--log', '8'], 2, /Give 1/],
    ['a file that is not there', ['/no/such.bpf.o'], 1, /no such file/],
    [
      'an object for --file',
      [compileIfPossible(), '--file', compileIfPossible()],
      1,
      /ELF|program|machine|BPF/i,
    ],
    ['a setting without a name', [compileIfPossible(), '--target', 'x'], 2, /--target PROGRAM=SELECTOR/],
    ['a program that there is not', [compileIfPossible(), '--target', 'x=y'], 1, /has no program x/],
  ] as const)('%s: one sentence', async (_name, args, status, sentence) => {
    const done = await multitrace(['verify', ...args]);
    expect(done.status, describeRun(done)).toBe(status);
    expect(done.stdout).toBe('');
    expect(done.stderr).toMatch(sentence);
    expect(done.stderr.trim().split('\n').length).toBeLessThanOrEqual(2);
  });

  test('a damaged object is told, not thrown', async () => {
    const bytes = readFileSync(object('null_value'));
    const path = join(scratch, 'damaged.bpf.o');
    writeFileSync(path, bytes.subarray(0, bytes.length >> 1));
    const done = await multitrace(['verify', path]);
    expect(done.status, describeRun(done)).toBe(1);
    expect(done.stderr).not.toMatch(/internal error/);
  });
});

/** An object for tests of bad usage, whose table is made before anything is skipped. */
function compileIfPossible(): string {
  return lacking === undefined ? object('null_value') : '';
}
