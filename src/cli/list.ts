/**
 * `multitrace list`: which functions the selectors match, and whether and where each can be attached.
 */

import { basename } from 'node:path';
import { ElfFile } from '../elf/file.js';
import { BpfError } from '../kernel/errno.js';
import type { Kernel, TargetCheck } from '../kernel/kernel.js';
import { checkFunctions } from '../kernel/process/ftrace/check.js';
import { sitesOf } from '../kernel/process/ftrace/module_sites.js';
import type { SessionTool, TracingSession } from '../kernel/session.js';
import { SelectorSet } from '../process/symbols/selector.js';
import {
  isKernel,
  type MachineOptions,
  meansKernel,
  openSession,
  type What,
  whatToTrace,
} from './machine.js';
import { grouped, note, print, table } from './output.js';
import { StopSignals } from './stop_signals.js';

export interface ListOptions extends MachineOptions {
  readonly json?: boolean;
  /** A file that nothing runs. */
  readonly file?: string;
}

/** What is looked at. Throws EINVAL for what goes not together. */
function whatToList(
  options: ListOptions,
  command: readonly string[] | undefined,
  selectors: readonly string[],
): What | { readonly file: string } {
  const { file, pid } = options;
  if (meansKernel(options, selectors)) {
    const only =
      file !== undefined
        ? '--file'
        : command !== undefined
          ? 'a command'
          : pid !== undefined
            ? '-p'
            : undefined;
    if (only !== undefined)
      throw new BpfError('EINVAL', `these are functions of the kernel, which is there: leave out ${only}`);
  } else if (file !== undefined) {
    if (pid !== undefined || command !== undefined)
      throw new BpfError('EINVAL', 'give only one of --file, -p and a command after --');
    return { file };
  }
  return whatToTrace(options, command, selectors);
}

/** Runs the command; the exit status. */
export async function list(
  selectorTexts: readonly string[],
  command: readonly string[] | undefined,
  options: ListOptions,
): Promise<number> {
  const what = whatToList(options, command, selectorTexts);
  const selectors = SelectorSet.parse(selectorTexts);
  const checks = 'file' in what ? listFile(what.file, selectors) : await listMachine(what, selectors);
  const kernel = 'kernel' in what;
  if (checks.length === 0)
    throw new BpfError(
      'ENOENT',
      kernel
        ? `no function of the kernel matched ${selectorTexts.join(' ')}; a kernel module's functions are MODULE:FUNCTION`
        : `no function matched ${selectorTexts.join(' ')}; a library's functions are LIBRARY:FUNCTION, those of the program itself have no prefix`,
    );
  const attachable = checks.filter(check => check.site !== undefined).length;
  if (options.json) {
    const functions = checks.map(({ target, site, refused }) => ({
      module: target.module,
      function: target.name,
      address: hex(target.address),
      size: target.size,
      attachable: site !== undefined,
      site: site === undefined ? null : { address: hex(site.address), length: site.length, kind: site.kind },
      reason: refused?.reason ?? null,
      detail: refused?.detail ?? null,
    }));
    print(
      `${JSON.stringify({ command: 'list', machine: kernel ? 'kernel' : 'process', matched: checks.length, attachable, functions })}\n`,
    );
    return 0;
  }
  const rows = checks.map(({ target, site, refused }) => [
    hex(target.address),
    String(target.size),
    site === undefined ? '-' : kernel ? site.kind : `${site.kind}+${site.address - target.address}`,
    target.module,
    refused === undefined ? target.name : `${target.name}   (${refused.reason}: ${refused.detail})`,
  ]);
  print(table([['ADDRESS', 'SIZE', 'SITE', 'MODULE', 'FUNCTION'], ...rows], [0, 1]));
  note(`${grouped(checks.length)} functions matched, ${grouped(attachable)} of them can be attached`);
  return 0;
}

function hex(address: bigint): string {
  return `0x${address.toString(16)}`;
}

/** The functions of a file that nothing runs; addresses are those in the file. */
function listFile(path: string, selectors: SelectorSet): TargetCheck[] {
  const elf = ElfFile.open(path);
  const name = basename(path);
  const selectable = { path, isMain: true };
  const functions = sitesOf(elf, name).functions.filter(f =>
    selectors.matchesFunction(selectable, f.aliases),
  );
  const results = checkFunctions(elf, name, functions);
  return functions.map((f, i) => {
    const target = {
      module: name,
      name: f.aliases.find(alias => selectors.matchesFunction(selectable, [alias])) ?? f.name,
      address: BigInt(f.address),
      size: f.size,
    };
    const result = results[i];
    if ('reason' in result) return { target, refused: result };
    return { target, site: { address: BigInt(result.address), length: result.length, kind: result.kind } };
  });
}

async function listMachine(what: What, selectors: SelectorSet): Promise<TargetCheck[]> {
  let checks: TargetCheck[] | undefined;
  const look = (kernel: Kernel): void => {
    checks ??= kernel.check(kernel.functions(selectors));
    // None of a command's code has run, and none shall.
    session?.killCommand();
  };
  const tool: SessionTool = {
    opened: look,
    modulesChanged: () => {},
    closed: () => {},
    refused: error => note(error.message),
  };
  let session: TracingSession | undefined;
  // A process is looked at and let go at once.
  session = await openSession(what, tool, 'pid' in what ? { signals: new StopSignals() } : {});
  if (isKernel(what) || 'pid' in what) session.stop();
  else if (checks !== undefined) session.killCommand();
  await session.end;
  if (checks === undefined) throw new BpfError('ESRCH', 'the command ended before its program was there');
  return checks;
}
