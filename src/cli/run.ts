/**
 * `multitrace run`: loads BPF objects into a command or a process, attaches them as their section names say, prints
 * what they print while they run, and what their maps and variables hold at the end.
 */

import { BpfError } from '../kernel/errno.js';
import type { SessionEnd, TracingSession } from '../kernel/session.js';
import { BpfObject } from '../libbpf/object.js';
import { Pins } from '../libbpf/pins.js';
import { SelectorSet } from '../process/symbols/selector.js';
import { type Json, toJson } from './json.js';
import { KernelSymbolizer } from './kernel_symbols.js';
import {
  isKernel,
  type MachineOptions,
  meansKernel,
  namesKernel,
  openSession,
  type What,
  whatToTrace,
} from './machine.js';
import { formatGlobals, globalsOf } from './object_report.js';
import { applySettings, type ObjectSettings } from './object_settings.js';
import { ObjectTool } from './object_tool.js';
import { EXIT_FAILURE, exitCodeOf, signalName, tell } from './options.js';
import { grouped, note, print, printError, table } from './output.js';
import { byWays } from './selector_tool.js';
import { StopSignals } from './stop_signals.js';
import { type AddressNames, Symbolizer } from './symbolize.js';

export interface RunOptions extends ObjectSettings, MachineOptions {
  /** Seconds. */
  readonly duration?: number;
  readonly json?: boolean;
  readonly verbose?: boolean;
  /** Where pinned maps are kept. */
  readonly pinDir?: string;
  /** Functions whose result `fmod_ret` programs may change. */
  readonly allowModify?: readonly string[];
  /** Count the programs' runs and time. */
  readonly stats?: boolean;
  /** The verifier's log: 1 or 2. */
  readonly log?: number;
}

/** Runs the command; the exit status. */
export async function run(
  files: readonly string[],
  command: readonly string[] | undefined,
  options: RunOptions,
): Promise<number> {
  // A file that can't be read is told before anything is started.
  const objects = files.map(file => BpfObject.open(file));
  applySettings(objects, options);
  for (const object of objects)
    for (const { autoload, spec } of object.programs) if (autoload && spec.refused) throw spec.refused;
  const what = whatToRun(objects, command, options);
  const pins = new Pins(options.pinDir);
  const symbolizer = isKernel(what) ? new KernelSymbolizer() : new Symbolizer();
  const tool = new ObjectTool(objects, {
    pins,
    symbolizer,
    allowModify: options.allowModify === undefined ? undefined : SelectorSet.parse(options.allowModify),
    logLevel: options.log ?? 0,
    stats: options.stats === true,
    // With --json standard output has one object and nothing else.
    line: text => (options.json ? printError : print)(`${text}\n`),
    keep: options.json === true,
    note,
  });
  const signals = new StopSignals();
  let session: TracingSession;
  try {
    session = await openSession(what, tool, { signals, ...(options.json ? { stdout: 2 } : {}) });
  } catch (cause) {
    return tellRefusal(cause, options);
  }
  tool.session = session;
  const over = signals.follow(session, options.duration);
  if (!options.json && !('command' in what)) {
    const where = isKernel(what)
      ? `the kernel attached ${byWays(tool.ways)}`
      : `process ${what.pid} attached`;
    note(
      `${grouped(tool.attached)} functions of ${where}${options.duration === undefined ? ', Ctrl-C ends' : ''}`,
    );
  }

  let end: SessionEnd;
  try {
    end = await session.end;
    tool.check();
  } catch (cause) {
    return tellRefusal(cause, options);
  } finally {
    over();
  }
  report(tool, objects, session, end, options, symbolizer);
  for (const path of pins.save()) if (options.verbose) note(`pinned: ${path}`);
  if (end.kind === 'stopped' && session.commandRuns) note(`process ${session.pid} goes on without us`);
  const status = end.kind === 'ended' ? exitCodeOf(end.exit) : 0;
  if (tool.attached > 0 || tool.programs.every(program => program.left)) return status;
  note(
    `no program was attached: ${tool.programs
      .filter(program => !program.left)
      .map(
        ({ name, section, skipped }) => `${name} (${section}) ${skipped[0]?.detail ?? 'matched no function'}`,
      )
      .join('; ')}; \`multitrace list\` shows what there is`,
  );
  return status === 0 ? EXIT_FAILURE : status;
}

/** The kernel where it is asked for, or where the selectors of every program name it. */
function whatToRun(
  objects: readonly BpfObject[],
  command: readonly string[] | undefined,
  options: RunOptions,
): What {
  const programs = objects.flatMap(object =>
    object.programs.filter(({ autoload, selectors }) => autoload && selectors.length > 0),
  );
  const [inside, outside] = [true, false].map(kernel =>
    programs.filter(({ selectors }) => namesKernel(selectors) === kernel),
  );
  if (options.machine === undefined && inside.length > 0 && outside.length > 0)
    throw new BpfError(
      'EINVAL',
      `program ${inside[0].name} is for the kernel, and ${outside[0].name} names no module of it; say with --machine which machine all are for, or run them apart`,
    );
  const selectors = inside.flatMap(one => one.selectors);
  if (meansKernel(options, selectors)) {
    if (options.allowModify !== undefined)
      throw new BpfError(
        'EINVAL',
        '--allow-modify is for processes; the kernel itself says which of its functions may be changed',
      );
    if (options.pid !== undefined)
      throw new BpfError(
        'EINVAL',
        '-p is for functions of a process; programs of the kernel say themselves whose calls they want (bpf_get_current_pid_tgid)',
      );
  }
  return whatToTrace(options, command, selectors);
}

/** A refusal is no bad usage, whatever its number; what the verifier wrote comes before it, where it was asked for. */
function tellRefusal(cause: unknown, { log }: RunOptions): number {
  for (let at = cause; at instanceof Error; at = at.cause)
    if (log && at instanceof BpfError && 'log' in at && typeof at.log === 'string' && at.log !== '')
      printError(`${at.log.trimEnd()}\n`);
  tell(cause);
  return EXIT_FAILURE;
}

/** What each program's runs took. */
function statsTable(programs: ObjectTool['programs']): string {
  const rows = programs.map(({ name, runs, runTimeNs }) => [
    grouped(runs),
    grouped(runTimeNs),
    runs === 0n ? '-' : (Number(runTimeNs) / Number(runs)).toFixed(1),
    name,
  ]);
  return `\n${table([['RUNS', 'TIME ns', 'ns A RUN', 'PROGRAM'], ...rows], [0, 1, 2])}`;
}

function report(
  tool: ObjectTool,
  objects: readonly BpfObject[],
  { machine }: TracingSession,
  end: SessionEnd,
  options: RunOptions,
  symbolizer: AddressNames,
): void {
  const programs = tool.programs.filter(program => !program.left);
  if (options.json) {
    const exit = end.kind === 'ended' ? end.exit : undefined;
    const maps: Record<string, Json> = {};
    for (const { name, entries } of tool.maps) maps[name] = entries.map(({ key, value }) => ({ key, value }));
    const object: Json = {
      machine,
      programs: programs.map(({ name, section, attached, way, skipped, missed, runs, runTimeNs }) => ({
        name,
        section,
        attached,
        ...(machine === 'kernel' ? { way: way ?? null } : {}),
        skipped: skipped.map(s => ({ module: s.module, function: s.function, reason: s.reason })),
        missed,
        ...(options.stats ? { runCount: runs, runTimeNs } : {}),
      })),
      maps,
      globals: globalsOf(objects),
      exit: {
        code: exit !== undefined && 'code' in exit ? exit.code : null,
        signal: exit !== undefined && 'signal' in exit ? signalName(exit.signal) : null,
      },
    };
    print(`${toJson(object)}\n`);
  } else
    print(
      `${tool.tables()}${formatGlobals(objects, symbolizer)}${options.stats ? statsTable(programs) : ''}`,
    );
  for (const [name, dropped] of tool.dropped)
    if (dropped > 0n) note(`map ${name}: ${grouped(dropped)} records found no room; make it larger`);
  for (const { name, missed } of programs)
    if (missed > 0n && !options.json) note(`program ${name}: ${grouped(missed)} calls were not seen`);
  const skipped = programs.flatMap(program => program.skipped.map(s => ({ ...s, program: program.name })));
  if (options.verbose)
    for (const s of skipped)
      note(`${s.program}: not attached: ${s.module}:${s.function}: ${s.reason}: ${s.detail}`);
  else if (skipped.length > 0 && !options.json)
    note(`${grouped(skipped.length)} functions were not attached; --verbose names them`);
}
