/** `multitrace features`: what the running kernel offers, and by which way programs would get onto many functions. */

import { release } from 'node:os';
import type { AttachType, Way } from '../kernel/kernel.js';
import { FEATURES, KernelFeatures } from '../kernel/linux/features.js';
import { lockdownLevel } from '../kernel/linux/refusal.js';
import { print, table } from './output.js';

export interface FeaturesOptions {
  readonly json?: boolean;
}

const ATTACH_TYPES: readonly AttachType[] = ['fentry', 'fexit', 'fsession', 'fmod_ret'];

/** Ways as people read them. */
export const WAY_WORDS: Readonly<Record<Way, string>> = {
  tracing_multi: 'one tracing multi-link',
  kprobe_multi: 'one kprobe multi-link',
  tracing: 'a tracing link for each function',
};

/** Runs the command; the exit status. */
export function features(options: FeaturesOptions): number {
  const kernel = new KernelFeatures();
  const all = kernel.all();
  const ways = ATTACH_TYPES.map(attachType => kernel.ways(attachType));
  if (options.json) {
    const object = {
      command: 'features',
      machine: 'kernel',
      release: release(),
      lockdown: lockdownLevel() ?? null,
      features: all.map(({ name, there, why }) => ({ name, what: FEATURES[name], there, why: why ?? null })),
      ways: ways.map(({ attachType, ways: offered, why }) => ({
        attachType,
        ways: offered,
        why: why ?? null,
      })),
    };
    print(`${JSON.stringify(object)}\n`);
    return 0;
  }
  print(`Linux ${release()}, lockdown: ${lockdownLevel() ?? 'not shown'}\n\n`);
  const told = new Map<string, string>();
  /** A reason in full where it is first, then by what it stands at. */
  const reason = (why: string | undefined, at: string): string => {
    if (why === undefined) return '';
    const first = told.get(why);
    if (first === undefined) told.set(why, at);
    return first === undefined ? why : `as for ${first}`;
  };
  const rows = all.map(({ name, there, why }) => [
    there ? 'yes' : 'no',
    FEATURES[name],
    reason(why, FEATURES[name]),
  ]);
  print(trimmed(table([['', 'FEATURE', 'WHY NOT'], ...rows], [])));
  print('\n');
  const offers = ways.map(({ attachType, ways: offered, why }) => [
    attachType,
    offered.length === 0 ? '-' : offered.map(way => WAY_WORDS[way]).join('; else '),
    reason(why, attachType),
  ]);
  print(trimmed(table([['ON MANY FUNCTIONS', 'BY', 'WHY NOT'], ...offers], [])));
  return 0;
}

function trimmed(text: string): string {
  return text.replace(/ +$/gm, '');
}
