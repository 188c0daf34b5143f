/** What calls are wanted, as the commands' options say: by duration, by result, by thread. */

import { BpfError } from '../kernel/errno.js';
import { opaqueResult, type ResultSize, resultAs } from './signature.js';

const NS: Readonly<Record<string, number>> = { ns: 1, us: 1e3, µs: 1e3, ms: 1e6, s: 1e9 };

/** `10us` in nanoseconds. Throws EINVAL. */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ns|us|µs|ms|s)$/.exec(text);
  const ns = match === null ? Number.NaN : Math.round(Number(match[1]) * NS[match[2]]);
  if (!(ns >= 0 && ns <= Number.MAX_SAFE_INTEGER))
    throw new BpfError(
      'EINVAL',
      `'${text}' is no duration; write a number and ns, us, ms or s, such as 10us`,
    );
  return ns;
}

export const OPERATORS = ['<=', '>=', '==', '!=', '<', '>'] as const;
export type Operator = (typeof OPERATORS)[number];

/** A condition on results. */
export interface ResultFilter {
  readonly operator: Operator;
  readonly value: bigint;
}

/** `<0`, `==-1`, `!=null`. Throws EINVAL. */
export function parseResultFilter(text: string): ResultFilter {
  const operator = OPERATORS.find(op => text.trimStart().startsWith(op));
  const rest = operator === undefined ? '' : text.trimStart().slice(operator.length).trim();
  const number = /^([+-]?)(0x[0-9a-f]+|\d+)$/i.exec(rest);
  if (operator === undefined || (number === null && !/^null$/i.test(rest)))
    throw new BpfError(
      'EINVAL',
      `'${text}' is no condition on results; write one of < <= > >= == != and a number or null, such as '<0'`,
    );
  const value = number === null ? 0n : BigInt(number[2]) * (number[1] === '-' ? -1n : 1n);
  if (value >= 1n << 64n || value < -(1n << 63n))
    throw new BpfError('EINVAL', `the number in '${text}' does not fit into 64 bits`);
  return { operator, value };
}

export function compares(left: bigint, { operator, value }: ResultFilter): boolean {
  switch (operator) {
    case '<':
      return left < value;
    case '<=':
      return left <= value;
    case '>':
      return left > value;
    case '>=':
      return left >= value;
    case '==':
      return left === value;
    case '!=':
      return left !== value;
  }
}

/** Whether a result, as it is in the register, fulfils the condition. `size` is `undefined` where nothing is known of it. */
export function resultPasses(word: bigint, size: ResultSize | undefined, filter: ResultFilter): boolean {
  return compares(size === undefined ? opaqueResult(word) : resultAs(word, size), filter);
}

const MOST_TIDS = 64;

/** `12,34` as thread ids. Throws EINVAL. */
export function parseTids(text: string): number[] {
  const tids = text.split(',').map(part => (/^\d+$/.test(part) ? Number(part) : 0));
  if (tids.some(tid => tid < 1 || tid >= 2 ** 31))
    throw new BpfError(
      'EINVAL',
      `'${text}' are no thread ids; write numbers with commas between, such as 12,34`,
    );
  if (tids.length > MOST_TIDS)
    throw new BpfError('EINVAL', `${tids.length} thread ids are given; at most ${MOST_TIDS} can be`);
  return tids;
}
