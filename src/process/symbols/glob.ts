/**
 * Glob patterns over names (glob(7), plus {a,b} of the shell). Matching takes time proportional to the name,
 * whatever the pattern: names come from files that nobody vouches for and can be thousands of letters long.
 */

import { BpfError } from '../../kernel/errno.js';

/** The most alternatives that the braces of one pattern may make. */
const MAX_ALTERNATIVES = 256;

/** A part between two stars: it matches a fixed number of characters. */
type Piece =
  | { readonly text: string; readonly length: number }
  | { readonly class: RegExp; readonly length: number };

/** Pieces that must appear in this order; the first at the start and the last at the end of the name. */
type Alternative = readonly Piece[];

/**
 * A compiled pattern: `*` any text, `?` one character, `[a-z]` one of a set, `[!a-z]` one not of it, `{a,b}`
 * either, `\` takes the next character as it is.
 */
export class Glob {
  readonly #alternatives: readonly Alternative[];
  /** The pattern matches every name. */
  readonly matchesAll: boolean;

  private constructor(alternatives: readonly Alternative[]) {
    this.#alternatives = alternatives;
    this.matchesAll = alternatives.some(
      pieces => pieces.length > 1 && pieces.every(piece => piece.length === 0),
    );
  }

  /**
   * Compiles `pattern`. A pattern that can't be read throws EINVAL; the sentence shows `whole` (what the user
   * typed) and the position in it, where `pattern` starts at `start`.
   */
  static compile(pattern: string, whole = pattern, start = 0): Glob {
    const fail = (at: number, why: string): BpfError =>
      new BpfError('EINVAL', `bad selector '${whole}' at character ${start + at + 1}: ${why}`);
    return new Glob(expandBraces(tokenize(pattern, fail), fail).map(compileAlternative));
  }

  /** Does the pattern match the whole name? */
  matches(name: string): boolean {
    if (this.matchesAll) return true;
    for (const pieces of this.#alternatives) if (matchPieces(pieces, name)) return true;
    return false;
  }
}

type Fail = (at: number, why: string) => BpfError;

/** What a pattern is made of. `source` is a character class in the syntax of RegExp. */
type Token =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'class'; readonly source: string }
  | { readonly kind: 'star' }
  | { readonly kind: 'open' | 'comma' | 'close'; readonly at: number; readonly text: string };

function tokenize(pattern: string, fail: Fail): Token[] {
  const tokens: Token[] = [];
  let depth = 0;
  for (let at = 0; at < pattern.length; at++) {
    const character = pattern[at];
    if (character === '*') tokens.push({ kind: 'star' });
    else if (character === '?') tokens.push({ kind: 'class', source: '[^]' });
    else if (character === '[') {
      const end = classEnd(pattern, at);
      if (end < 0)
        throw fail(at, "this '[' is never closed; close it with ']', or write '\\[' for the character");
      tokens.push({ kind: 'class', source: classSource(pattern, at, end, fail) });
      at = end;
    } else if (character === '\\') {
      if (at + 1 === pattern.length)
        throw fail(at, "nothing follows this '\\'; write '\\\\' for the character");
      tokens.push({ kind: 'text', text: pattern[++at] });
    } else if (character === '{') {
      depth++;
      tokens.push({ kind: 'open', at, text: character });
    } else if (character === '}' && depth > 0) {
      depth--;
      tokens.push({ kind: 'close', at, text: character });
    } else if (character === ',' && depth > 0) tokens.push({ kind: 'comma', at, text: character });
    else tokens.push({ kind: 'text', text: character });
  }
  return tokens;
}

/** The position of the `]` that closes the `[` at `open`; -1 when there is none. A `]` in first place is a member. */
export function classEnd(pattern: string, open: number): number {
  const first = pattern[open + 1] === '!' || pattern[open + 1] === '^' ? open + 2 : open + 1;
  return pattern.indexOf(']', first + 1);
}

function classSource(pattern: string, open: number, end: number, fail: Fail): string {
  const inverted = pattern[open + 1] === '!' || pattern[open + 1] === '^';
  const members = pattern.slice(open + (inverted ? 2 : 1), end);
  if (members.startsWith('[:'))
    throw fail(open, "classes such as '[:alpha:]' are not known here; write a range, such as [A-Za-z]");
  let source = '';
  for (let i = 0; i < members.length; i++) {
    const to = members[i + 2];
    if (members[i + 1] === '-' && to !== undefined) {
      if (members[i] > to)
        throw fail(
          open,
          `the range '${members.slice(i, i + 3)}' runs backwards; write '${to}-${members[i]}'`,
        );
      source += `${escapeForClass(members[i])}-${escapeForClass(to)}`;
      i += 2;
    } else source += escapeForClass(members[i]);
  }
  return `[${inverted ? '^' : ''}${source}]`;
}

function escapeForClass(character: string): string {
  return /[\\\]^-]/.test(character) ? `\\${character}` : character;
}

/** Each way to choose one alternative of every pair of braces. */
function expandBraces(tokens: readonly Token[], fail: Fail): Token[][] {
  let at = 0;
  const sequence = (insideOf: Token | undefined): Token[][] => {
    const choices: Token[][] = [];
    let current: Token[][] = [[]];
    for (; at < tokens.length; at++) {
      const token = tokens[at];
      if (token.kind === 'close' || token.kind === 'comma') {
        choices.push(...current);
        if (token.kind === 'close') return choices;
        current = [[]];
      } else if (token.kind === 'open') {
        at++;
        const inner = sequence(token);
        if (inner.length * current.length + choices.length > MAX_ALTERNATIVES)
          throw fail(
            token.at,
            `the braces make more than ${MAX_ALTERNATIVES} patterns; use several selectors`,
          );
        current = current.flatMap(head => inner.map(tail => [...head, ...tail]));
      } else for (const head of current) head.push(token);
    }
    if (insideOf?.kind === 'open')
      throw fail(
        insideOf.at,
        "this '{' is never closed; close it with '}', or write '\\{' for the character",
      );
    return [...choices, ...current];
  };
  return sequence(undefined);
}

function compileAlternative(tokens: readonly Token[]): Alternative {
  const pieces: Piece[] = [];
  let run: Token[] = [];
  for (const token of tokens) {
    if (token.kind === 'star') {
      pieces.push(compilePiece(run));
      run = [];
    } else run.push(token);
  }
  pieces.push(compilePiece(run));
  return pieces;
}

function compilePiece(tokens: readonly Token[]): Piece {
  const text = tokens.map(token => ('text' in token ? token.text : '')).join('');
  if (tokens.every(token => token.kind !== 'class')) return { text, length: tokens.length };
  const source = tokens.map(token => {
    if (token.kind === 'class') return token.source;
    return 'text' in token ? token.text.replace(/[\\^$.*+?()[\]{}|/]/, '\\$&') : '';
  });
  return { class: new RegExp(source.join(''), 'g'), length: tokens.length };
}

/** Where `piece` first matches at `from` or later; -1 if nowhere. */
function findPiece(piece: Piece, name: string, from: number): number {
  if ('text' in piece) return name.indexOf(piece.text, from);
  piece.class.lastIndex = from;
  return piece.class.exec(name)?.index ?? -1;
}

function matchesAt(piece: Piece, name: string, at: number): boolean {
  if ('text' in piece) return name.startsWith(piece.text, at);
  return findPiece(piece, name.slice(at, at + piece.length), 0) === 0;
}

/** Between stars the leftmost match of each piece is as good as any other, so there is no going back. */
function matchPieces(pieces: Alternative, name: string): boolean {
  const first = pieces[0];
  if (pieces.length === 1) return name.length === first.length && matchesAt(first, name, 0);
  const last = pieces[pieces.length - 1];
  const lastAt = name.length - last.length;
  if (lastAt < first.length || !matchesAt(first, name, 0) || !matchesAt(last, name, lastAt)) return false;
  let at = first.length;
  for (let i = 1; i < pieces.length - 1; i++) {
    const found = findPiece(pieces[i], name, at);
    if (found < 0 || found + pieces[i].length > lastAt) return false;
    at = found + pieces[i].length;
  }
  return true;
}
