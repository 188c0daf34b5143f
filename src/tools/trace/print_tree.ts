/**
 * Blocks of trees as text, one block for each piece of one thread's tree:
 *
 *     ── 14:05:01.123456  openssl 4242 ──
 *                EVP_DigestInit_ex(…) {
 *       412 ns     CRYPTO_zalloc(…) = 0x5581c0de1230
 *      2.15 us   } = 1
 */

import { argumentText, durationText, resultText } from './call_text.js';
import type { Call, Outcome } from './call_tree.js';
import type { Block, Step, TraceSink } from './selection.js';

const INDENT = 2;
/** Deeper calls are not indented further: their depth is written instead. */
const MOST_INDENT = 40;
const DURATION_WIDTH = 9;
/** A closing line that is so far from its opening one names the function again. */
const NAMED_AFTER = 12;
/** A heading is written again after so long. */
const HEAD_AGAIN_NS = 1e9;
/** Calls that a piece of a tree is said to be within. */
const MOST_WITHIN = 6;

/** What a call that did not return says instead of a result. */
export const OUTCOME_TEXT: Readonly<Record<Exclude<Outcome, 'open' | 'returned'>, string>> = {
  left: 'never returned: left by a jump or an exception',
  ended: 'never returned: its thread ended',
  untraced: 'still running when tracing ended',
  lost: 'its return was lost',
};

export type Style = 'dim' | 'name' | 'result' | 'bad' | 'head';
export type Paint = (style: Style, text: string) => string;

const CODES: Readonly<Record<Style, string>> = {
  dim: '2',
  name: '1',
  result: '32',
  bad: '31',
  head: '36',
};
export const plain: Paint = (_, text) => text;
export const coloured: Paint = (style, text) => (text === '' ? '' : `\x1b[${CODES[style]}m${text}\x1b[0m`);

export interface PrintOptions {
  readonly paint: Paint;
  /** Show registers of functions of which nothing is known. */
  readonly registers: boolean;
  threadName(pid: number, tid: number): string;
  /** Wall-clock time of a time of the trace, in ms since 1970. */
  wallTime(ns: number): number;
  write(text: string): void;
}

export class TreePrinter implements TraceSink {
  readonly #options: PrintOptions;
  /** Whose block was the last, and when its heading was written. */
  #last: { readonly who: string; readonly at: number } | undefined;
  /** Lines since a call was opened, of calls whose opening line was written. */
  readonly #opened = new Map<Call, number>();
  #lines = 0;

  constructor(options: PrintOptions) {
    this.#options = options;
  }

  block({ tree, steps, continued, complete, leftOut }: Block): void {
    const { paint, write } = this.#options;
    const lines: string[] = [];
    const start = steps[0]?.call.start ?? tree.root.start;
    const who = this.#who(tree, continued);
    // Trees of one thread that follow each other closely are one block.
    if (this.#last?.who !== who || continued || start - this.#last.at > HEAD_AGAIN_NS) {
      if (this.#last !== undefined) lines.push('');
      lines.push(paint('head', `── ${this.#clock(start)}  ${who} ──`));
      this.#last = { who, at: start };
      if (continued) lines.push(...this.#within(steps[0]));
    }
    for (let i = 0; i < steps.length; i++) {
      const { call, closed } = steps[i];
      if (closed) lines.push(this.#closing(call));
      else if (steps[i + 1]?.closed === true && steps[i + 1].call === call) {
        lines.push(this.#leaf(call));
        i++;
      } else lines.push(this.#opening(call));
      this.#lines++;
    }
    if (leftOut > 0)
      lines.push(paint('bad', `${' '.repeat(DURATION_WIDTH)}  … ${leftOut} more calls are not shown`));
    if (complete && tree.incomplete)
      lines.push(
        paint('bad', `${' '.repeat(DURATION_WIDTH)}  (calls found no room meanwhile: some may be missing)`),
      );
    write(`${lines.join('\n')}\n`);
  }

  #who({ pid, tid, stack }: Block['tree'], continued: boolean): string {
    const name = this.#options.threadName(pid, tid);
    return [
      `${name !== '' ? name : pid === tid ? 'process' : 'thread'} ${tid}`,
      ...(pid === tid ? [] : [`of process ${pid}`]),
      ...(stack === 0 ? [] : ['on another stack']),
      ...(continued ? ['(continued)'] : []),
    ].join(' ');
  }

  /** Which calls a piece of a tree is within. */
  #within({ call, closed }: Step): string[] {
    const names: string[] = [];
    for (let at = closed ? call : call.parent; at !== undefined; at = at.parent) names.unshift(at.fn.name);
    if (names.length === 0) return [];
    const left = names.length - MOST_WITHIN;
    const shown = left > 0 ? [`[${left}]`, ...names.slice(left)] : names;
    return [this.#options.paint('dim', `${' '.repeat(DURATION_WIDTH)}  in ${shown.join(' > ')}`)];
  }

  /** Wall-clock time of day, to the microsecond. */
  #clock(ns: number): string {
    const at = this.#options.wallTime(ns);
    const fraction = String(Math.floor((at % 1000) * 1000)).padStart(6, '0');
    return `${new Date(at).toTimeString().slice(0, 8)}.${fraction}`;
  }

  #indent(depth: number): string {
    return depth <= MOST_INDENT
      ? ' '.repeat(depth * INDENT)
      : `${' '.repeat(MOST_INDENT * INDENT)}[${depth + 1}] `;
  }

  #name({ fn: { name } }: Call): string {
    const { paint } = this.#options;
    return paint('name', name);
  }

  #called(call: Call): string {
    return `${this.#name(call)}(${argumentText(call, this.#options.registers)})`;
  }

  #opening(call: Call): string {
    this.#opened.set(call, this.#lines);
    return `${' '.repeat(DURATION_WIDTH)}  ${this.#indent(call.depth)}${this.#called(call)} {`;
  }

  #leaf(call: Call): string {
    return `${this.#duration(call)}  ${this.#indent(call.depth)}${this.#called(call)}${this.#ending(call)}`;
  }

  #closing(call: Call): string {
    const opened = this.#opened.get(call);
    this.#opened.delete(call);
    const far = opened === undefined || this.#lines - opened > NAMED_AFTER;
    const name = far ? this.#options.paint('dim', `  /* ${call.fn.name} */`) : '';
    return `${this.#duration(call)}  ${this.#indent(call.depth)}}${this.#ending(call)}${name}`;
  }

  #duration({ outcome, start, end }: Call): string {
    return outcome === 'returned'
      ? durationText(end - start).padStart(DURATION_WIDTH)
      : ' '.repeat(DURATION_WIDTH);
  }

  #ending(call: Call): string {
    const { paint } = this.#options;
    const { outcome } = call;
    if (outcome === 'open') return '';
    if (outcome !== 'returned') return `  ${paint('bad', OUTCOME_TEXT[outcome])}`;
    const result = resultText(call);
    return result === '' ? '' : ` = ${paint(result.startsWith('-') ? 'bad' : 'result', result)}`;
  }
}
