/** What the command line sets on objects before they are loaded: `--set`, `--target`, `--record`. */

import { BpfError } from '../kernel/errno.js';
import type { BtfValue } from '../libbpf/codec.js';
import type { BpfObject } from '../libbpf/object.js';

export interface ObjectSettings {
  /** `VARIABLE=VALUE` */
  readonly set?: readonly string[];
  /** `PROGRAM=SELECTOR` */
  readonly target?: readonly string[];
  /** `MAP=STRUCT` */
  readonly record?: readonly string[];
}

/** Throws EINVAL for a bad setting, ENOENT for a name that no object has. */
export function applySettings(objects: readonly BpfObject[], settings: ObjectSettings): void {
  for (const text of settings.set ?? []) {
    const [name, value] = pair(text, '--set VARIABLE=VALUE');
    toThose(objects, object => {
      object.sectionOf(name).set(name, parseValue(value));
    });
  }
  for (const text of settings.target ?? []) {
    const [name, selectors] = pair(text, '--target PROGRAM=SELECTOR');
    toThose(objects, object => {
      const program = object.program(name);
      program.setTarget(selectors);
      // Who names a target wants the program.
      program.autoload = true;
    });
  }
  for (const text of settings.record ?? []) {
    const [name, type] = pair(text, '--record MAP=STRUCT');
    toThose(objects, object => {
      object.map(name).recordType = type;
    });
  }
}

function pair(text: string, form: string): readonly [string, string] {
  const at = text.indexOf('=');
  if (at <= 0) throw new BpfError('EINVAL', `'${text}' is not of the form ${form}`);
  return [text.slice(0, at), text.slice(at + 1)];
}

/** Every object that has the name; the first refusal where none has. */
function toThose(objects: readonly BpfObject[], change: (object: BpfObject) => void): void {
  let refusal: BpfError | undefined;
  let changed = false;
  for (const object of objects) {
    try {
      change(object);
      changed = true;
    } catch (cause) {
      if (!(cause instanceof BpfError) || cause.code !== 'ENOENT') throw cause;
      refusal ??= cause;
    }
  }
  if (!changed && refusal !== undefined) throw refusal;
}

/** A number (also 0x…), true or false, JSON for structures and arrays; anything else is text. */
export function parseValue(text: string): BtfValue {
  if (/^[+-]?(0x[0-9a-f]+|\d+)$/i.test(text)) {
    const negative = text.startsWith('-');
    const value = BigInt(text.replace(/^[+-]/, ''));
    return negative ? -value : value;
  }
  if (text === 'true' || text === 'false') return text === 'true';
  if (/^[[{"]/.test(text)) {
    try {
      return JSON.parse(text) as BtfValue;
    } catch (cause) {
      throw new BpfError('EINVAL', `the value ${text} is no JSON`, { cause });
    }
  }
  return text;
}
