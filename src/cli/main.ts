/**
 * The command line: subcommands and their options. What each does is in its own file, loaded where others are not to
 * wait for it.
 */

import { readFileSync } from 'node:fs';
import { Command, CommanderError, Option } from 'commander';
import type { BenchOptions } from './bench.js';
import { type CountOptions, count } from './count.js';
import { demo } from './demo.js';
import type { DumpOptions } from './dump.js';
import type { FeaturesOptions } from './features.js';
import type { LatencyOptions } from './latency.js';
import { type ListOptions, list } from './list.js';
import { MACHINES, type MachineOptions, processToTrace, WAYS, whatToTrace } from './machine.js';
import {
  collect,
  EXIT_FAILURE,
  EXIT_USAGE,
  logLevel,
  positiveInteger,
  seconds,
  splitCommand,
  tell,
} from './options.js';
import { note, outputFailed, print, printError } from './output.js';
import type { RunOptions } from './run.js';
import type { TraceOptions } from './trace.js';
import type { VerifyOptions } from './verify.js';

const SELECTORS = `
A selector is [MODULE:]FUNCTION, both globs (* ? [a-z]). MODULE is a file's name with or without
.so and version (libcrypto:EVP_*); without it the main program is meant. !SELECTOR excludes.
kernel:FUNCTION is a function of the running kernel, MODULE:FUNCTION beside it one of a kernel module;
a COMMAND is optional then, and says how long to trace.`;

const LOG =
  "print the verifier's log: 1 the path that was refused, 2 every instruction, 4 statistics alone, or a sum";

const SECTIONS = `
Sections: fentry, fexit, fmod_ret, fsession, each also with .multi and .s, then /SELECTOR[,SELECTOR...]:
SEC("fentry.multi/libc:malloc,libc:calloc"). A selector is [MODULE:]FUNCTION as for count.

The exit status is the command's; 1 where something failed, 2 for bad usage.`;

function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

function build(command: readonly string[] | undefined, done: (status: Promise<number>) => void): Command {
  const program = new Command('multitrace')
    .description(
      'One BPF program on thousands of functions of a live process, through one link. No root, no agent.',
    )
    .version(version())
    .exitOverride()
    .showHelpAfterError('(multitrace --help shows what there is)')
    .configureOutput({
      writeOut: print,
      writeErr: printError,
      outputError: text =>
        note(
          text
            .replace(/^error: /, '')
            .trim()
            .replaceAll('\n', ' '),
        ),
    });
  const inherit = (sub: Command): Command =>
    sub
      .copyInheritedSettings(program)
      .showHelpAfterError(`(multitrace ${sub.name()} --help shows its options)`);

  /** Commands that work on both machines. */
  const onMachines = (sub: Command): Command =>
    sub
      .addOption(
        new Option(
          '--machine <machine>',
          "'kernel' traces the running kernel, as kernel:FUNCTION does",
        ).choices(MACHINES),
      )
      .addOption(new Option('--way <way>', 'the kernel: attach in this way, and no other').choices(WAYS))
      .option(
        '--max-links <n>',
        'the kernel: at most n functions with a link of their own (1000 where left out)',
        positiveInteger,
      );

  onMachines(inherit(program.command('count')))
    .summary('count the calls of functions')
    .description('Counts the calls of every function that the selectors match.')
    .usage('SELECTOR... [options] (-- COMMAND [ARG...] | -p PID)')
    .argument('<selector...>')
    .option('-p, --pid <pid>', 'trace this running process', positiveInteger)
    .option('-d, --duration <seconds>', 'end after so long; the program goes on', seconds)
    .option('-i, --interval <seconds>', 'print what was counted in each interval', seconds)
    .option('-t, --top <n>', 'print the n functions called most', positiveInteger)
    .option('--all', 'print functions that were not called too')
    .option('--json', 'print one JSON object (and one for each interval) on standard output')
    .option('-v, --verbose', 'name each function that can not be attached, and why')
    .addHelpText(
      'after',
      `${SELECTORS}\n\nThe exit status is the command's; 1 where something failed, 2 for bad usage.`,
    )
    .action((selectors: string[], options: CountOptions & MachineOptions) =>
      done(run(() => count(selectors, whatToTrace(options, command, selectors), options))),
    );

  onMachines(inherit(program.command('trace')))
    .summary('print live trees of calls')
    .description(
      'Prints trees of calls of the functions that the selectors match, with arguments (where the module has types),' +
        ' results and durations; a block for each tree of a thread.',
    )
    .usage('SELECTOR... [options] (-- COMMAND [ARG...] | -p PID)')
    .argument('<selector...>')
    .option('-p, --pid <pid>', 'trace this running process', positiveInteger)
    .option('-d, --duration <seconds>', 'end after so long; the program goes on', seconds)
    .option('-e, --entry <selector>', 'show only trees that begin in these functions (repeatable)', collect)
    .option('--min-duration <time>', 'show only trees that took so long (10us; ns, us, ms, s)')
    .option(
      '--retval <condition>',
      "show only trees whose first function returns such a result ('<0', '==null')",
    )
    .option('--tid <tid,...>', 'only these threads')
    .option('--depth <n>', 'show calls n deep', positiveInteger)
    .option(
      '--max-calls <n>',
      'end after n calls (100000 where left out, a million to a file)',
      positiveInteger,
    )
    .option('--registers', 'show six registers of functions of which nothing is known')
    .option('-o, --output <file>', 'write the trace to FILE.json (Chrome, Perfetto) or FILE.speedscope.json')
    .addOption(
      new Option('--format <format>', 'the format of that file, where its name does not say').choices([
        'chrome',
        'speedscope',
      ]),
    )
    .option('--json', 'print a JSON object on standard output for each call, and one at the end')
    .option('-v, --verbose', 'name each function that can not be attached, and why')
    .addHelpText(
      'after',
      `${SELECTORS}\n\nThe exit status is the command's; 1 where something failed, 2 for bad usage.`,
    )
    .action((selectors: string[], options: TraceOptions & MachineOptions) =>
      done(
        run(async () => {
          const { trace } = await import('./trace.js');
          const all = [...selectors, ...(options.entry ?? [])];
          return trace(selectors, whatToTrace(options, command, all), options);
        }),
      ),
    );

  onMachines(inherit(program.command('latency')))
    .summary('time functions')
    .description(
      'Prints how long calls of the functions that the selectors match take: calls, total, mean, median, 99th percentile' +
        ' and maximum, by total. A call counts with all that it calls, a recursive one each time.',
    )
    .usage('SELECTOR... [options] (-- COMMAND [ARG...] | -p PID)')
    .argument('<selector...>')
    .option('-p, --pid <pid>', 'trace this running process', positiveInteger)
    .option('-d, --duration <seconds>', 'end after so long; the program goes on', seconds)
    .option('-i, --interval <seconds>', 'print what was measured in each interval', seconds)
    .option('-t, --top <n>', 'print the n functions that took most time', positiveInteger)
    .addOption(
      new Option('--histogram [of]', 'print a histogram by powers of two: over all, or of each').choices([
        'all',
        'each',
      ]),
    )
    .option('--min-duration <time>', 'only calls that took so long (10us; ns, us, ms, s)')
    .option('--retval <condition>', "only calls that return such a result ('<0', '==null')")
    .option('--tid <tid,...>', 'only these threads')
    .option('--json', 'print one JSON object (and one for each interval) on standard output')
    .option('-v, --verbose', 'name each function that can not be attached, and why')
    .addHelpText(
      'after',
      `${SELECTORS}\n\nThe exit status is the command's; 1 where something failed, 2 for bad usage.`,
    )
    .action((selectors: string[], options: LatencyOptions & MachineOptions) =>
      done(
        run(async () => {
          const { latency } = await import('./latency.js');
          return latency(selectors, whatToTrace(options, command, selectors), options);
        }),
      ),
    );

  onMachines(inherit(program.command('list')))
    .summary('list functions and whether they can be attached')
    .description(
      'Lists every function that the selectors match, where its patch site is, or why it has none.',
    )
    .usage('SELECTOR... [options] (-- COMMAND [ARG...] | -p PID | --file ELF)')
    .argument('<selector...>')
    .option('-p, --pid <pid>', 'look at this running process', positiveInteger)
    .option('-f, --file <elf>', 'look at this file, which nothing runs; it is the main program')
    .option('--json', 'print one JSON object on standard output')
    .addHelpText(
      'after',
      `${SELECTORS}\n\nA COMMAND is started, looked at with its libraries loaded, and ended before its code runs.`,
    )
    .action((selectors: string[], options: ListOptions) =>
      done(run(() => list(selectors, command, options))),
    );

  onMachines(inherit(program.command('run')))
    .summary('load BPF objects that clang compiled, and attach them')
    .description(
      'Loads BPF objects, attaches their programs to the functions that their sections name, prints what they print,' +
        ' and their maps and variables at the end.',
    )
    .usage('FILE.bpf.o... [options] (-- COMMAND [ARG...] | -p PID)')
    .argument('<file...>')
    .option('-p, --pid <pid>', 'trace this running process', positiveInteger)
    .option('-d, --duration <seconds>', 'end after so long; the program goes on', seconds)
    .option('--set <variable=value>', 'set a global variable before loading (repeatable)', collect)
    .option('--target <program=selector>', 'attach a program to other functions (repeatable)', collect)
    .option('--record <map=struct>', "say of what type a ring buffer's records are (repeatable)", collect)
    .option('--allow-modify <selector>', 'functions whose result fmod_ret programs may change', collect)
    .option('--log <level>', LOG, logLevel)
    .option('--pin-dir <folder>', 'where pinned maps are kept between runs')
    .option('--stats', 'count how often each program runs, and for how long')
    .option('--json', 'print one JSON object on standard output at the end')
    .option('-v, --verbose', 'name each function that can not be attached, and why')
    .addHelpText('after', SECTIONS)
    .action((files: string[], options: RunOptions) =>
      done(
        run(async () => {
          const { run: runFiles } = await import('./run.js');
          return runFiles(files, command, options);
        }),
      ),
    );

  inherit(program.command('dump'))
    .summary('print the programs of a BPF object')
    .description(
      'Prints the programs of a BPF object as they are loaded (xlated) and their machine code (jited), with source' +
        ' lines beside. Without a command or a process they are loaded into a process made for it.',
    )
    .usage('FILE.bpf.o [options] [-- COMMAND [ARG...] | -p PID]')
    .argument('<file>')
    .option('-p, --pid <pid>', 'load it into this running process', positiveInteger)
    .option('--program <name>', 'only this program')
    .option('--target <program=selector>', 'verify a program for other functions (repeatable)', collect)
    .option('--set <variable=value>', 'set a global variable before loading (repeatable)', collect)
    .action((file: string, options: DumpOptions & { pid?: number }) =>
      done(
        run(async () => {
          const { dump } = await import('./dump.js');
          const here = options.pid === undefined && command === undefined;
          return dump(file, here ? undefined : processToTrace(options.pid, command), options);
        }),
      ),
    );

  inherit(program.command('verify'))
    .summary('verify BPF objects without a process')
    .description(
      'Verifies every program of BPF objects, and says of each refused one what is wrong, where, and what to do. No' +
        ' process is needed: what the targets take and return is read from files. With --kernel every program is loaded into' +
        ' the running kernel, whose own verifier judges, and attached nowhere.',
    )
    .usage('FILE.bpf.o... [options]')
    .argument('<file...>')
    .option('--kernel', 'let the verifier of the running kernel judge, for functions of the kernel')
    .option('-f, --file <elf>', 'the program that selectors without a module mean')
    .option('--module <path>', "a library that is not in the system's folders (repeatable)", collect)
    .option('--target <program=selector>', 'verify a program for other functions (repeatable)', collect)
    .option('--set <variable=value>', 'set a global variable before loading (repeatable)', collect)
    .option('--log <level>', LOG, logLevel)
    .option('--json', 'print one JSON object on standard output')
    .addHelpText(
      'after',
      '\nThe exit status is 0 where every program is accepted, 1 where one is not, 2 for bad usage.',
    )
    .action((files: string[], options: VerifyOptions) =>
      done(
        run(async () => {
          const { verify } = await import('./verify.js');
          return verify(files, options);
        }),
      ),
    );

  inherit(program.command('features'))
    .summary('print what the running kernel offers for tracing it')
    .description(
      'Prints what the running kernel offers for tracing it, tried one by one, and by which way one program would get onto' +
        ' many functions of the kernel. Nothing stays loaded or attached.',
    )
    .option('--json', 'print one JSON object on standard output')
    .action((options: FeaturesOptions) =>
      done(
        run(async () => {
          const { features } = await import('./features.js');
          return features(options);
        }),
      ),
    );

  inherit(program.command('isa'))
    .summary('run one program, given as hexadecimal bytes on standard input')
    .description(
      'Runs one BPF program, whose bytes it reads as hexadecimal digits from standard input, with r1 = the memory and' +
        ' r2 = its length, and prints r0: the plugin protocol of bpf_conformance.',
    )
    .argument('[memory-hex]')
    // The suite's runner hands over its plugin options as one more argument, empty where there are none.
    .argument('[plugin-options]')
    .option('--interpret', 'by the interpreter instead of the JIT')
    .action((memory: string | undefined, _: string | undefined, options: { interpret?: boolean }) =>
      done(
        run(async () => {
          const { isa } = await import('./isa.js');
          return isa(memory, options);
        }),
      ),
    );

  inherit(program.command('bench'))
    .summary('measure what events cost, beside the kernel and other tools')
    .description(
      "Measures what one event costs, what attaching costs and what real work loses: ours, the kernel's uprobes, other" +
        ' tools and hooks written by hand, in rounds of random order, in one run. It needs gcc for its traced program.',
    )
    .argument('[row...]', 'rows to measure, names or globs; all where left out')
    .option('--list', 'print the rows that there are')
    .option('--producers <n>', 'threads that call the traced function', positiveInteger)
    .option('--seconds <s>', 'for each row, over all rounds (2 where left out)', seconds)
    .option('--seed <n>', 'of the random order', positiveInteger)
    .option('--svg <file>', 'write a plot')
    .option('--install-peers', 'install the tools to compare with that are missing (root and apt-get)')
    .option('--json', 'print a JSON array on standard output')
    .action((rows: string[], options: BenchOptions) =>
      done(
        run(async () => {
          const { bench } = await import('./bench.js');
          return bench(rows, options);
        }),
      ),
    );

  inherit(program.command('demo', { hidden: true })).action(() => done(run(demo)));
  return program;
}

async function run(work: () => Promise<number>): Promise<number> {
  try {
    return await work();
  } catch (cause) {
    if (cause instanceof CommanderError) {
      note(cause.message);
      return EXIT_USAGE;
    }
    return tell(cause);
  }
}

async function main(argv: readonly string[]): Promise<number> {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    note(`this is ${process.platform} on ${process.arch}; multitrace works on x86-64 Linux only`);
    return EXIT_USAGE;
  }
  const { own, command } = splitCommand(argv);
  let status: Promise<number> = Promise.resolve(EXIT_USAGE);
  try {
    const program = build(command, result => {
      status = result;
    });
    if (own.length === 0) {
      printError(program.helpInformation());
      return EXIT_USAGE;
    }
    program.parse(own, { from: 'user' });
  } catch (cause) {
    if (!(cause instanceof CommanderError)) throw cause;
    return cause.exitCode === 0 ? 0 : EXIT_USAGE;
  }
  return status;
}

const status = await main(process.argv.slice(2));
process.exit(status === 0 && outputFailed() ? EXIT_FAILURE : status);
