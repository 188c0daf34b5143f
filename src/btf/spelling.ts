/**
 * Writes a type as C does, around a declared name: `const char *name`, `int (*handler)(void *, ...)`,
 * `struct page *pages[16]`. Declarations with bodies are format_type.ts.
 *
 * A C declarator reads from the inside out, and BTF's chain of types from the outside in: walking the chain, each
 * pointer goes in front of what is there already, each array and parameter list behind it.
 */

import { BpfError } from '../kernel/errno.js';
import type { Btf } from './btf.js';
import type { BtfFuncProto } from './types.js';

export interface SpellingOptions {
  /** What a struct, union or enum without a name is written as. */
  readonly anonymous?: (id: number, depth: number) => string;
  /** What a type with a name is written as, where it is not its own. */
  readonly named?: (id: number) => string | undefined;
  /** Write type tags as attributes, as bpftool does. */
  readonly tags?: boolean;
  /** Parameters of parameters that are written; what lies deeper is left out. */
  readonly maxDepth?: number;
}

const MAX_DEPTH = 6;
/** Types that one spelling may take: prototypes that repeat each other as parameters grow without end. */
const MAX_STEPS = 10_000;

/** The type `id` of `btf`, declaring `declared`; just the type where that is empty. */
export function spellType(btf: Btf, id: number, declared: string, options: SpellingOptions = {}): string {
  return new Spelling(btf, options).spell(id, declared, 0);
}

class Spelling {
  readonly #btf: Btf;
  readonly #options: SpellingOptions;
  #steps = 0;

  constructor(btf: Btf, options: SpellingOptions) {
    this.#btf = btf;
    this.#options = options;
  }

  spell(id: number, declared: string, depth: number): string {
    let declarator = declared;
    let qualifiers = '';
    let tags = '';
    let at = id;
    for (;;) {
      if (this.#steps++ > MAX_STEPS)
        throw new BpfError('E2BIG', `${this.#btf.label}: type ${id} is too large to be written`);
      const type = this.#btf.type(at);
      switch (type.kind) {
        case 'const':
        case 'volatile':
        case 'restrict':
          qualifiers += `${type.kind} `;
          at = type.type;
          break;
        case 'type_tag':
          if (this.#options.tags) tags += ` __attribute__((btf_type_tag("${type.name ?? ''}")))`;
          at = type.type;
          break;
        case 'ptr':
          declarator = `*${pointerQualifiers(qualifiers + tags, declarator)}${declarator}`;
          qualifiers = '';
          tags = '';
          at = type.type;
          break;
        case 'array':
          declarator = `${grouped(declarator)}[${type.nelems}]`;
          at = type.type;
          break;
        case 'func_proto':
          declarator = `${grouped(declarator)}(${this.#parameters(type, depth)})`;
          at = type.returnType;
          break;
        case 'func':
        case 'var':
          declarator ||= type.name ?? '';
          at = type.type;
          break;
        default:
          return joined(qualifiers + this.#last(at, depth) + tags, declarator);
      }
    }
  }

  #parameters(proto: BtfFuncProto, depth: number): string {
    const { params } = proto;
    if (params.length === 0 || (params.length === 1 && params[0].type === 0)) return 'void';
    if (depth >= (this.#options.maxDepth ?? MAX_DEPTH)) return '/* … */';
    return params
      .map(({ name, type }) => (type === 0 ? '...' : this.spell(type, name, depth + 1)))
      .join(', ');
  }

  /** What a chain of types ends with. */
  #last(id: number, depth: number): string {
    const type = this.#btf.type(id);
    const named = this.#options.named?.(id);
    if (named !== undefined) return named;
    switch (type.kind) {
      case 'struct':
      case 'union':
      case 'enum':
      case 'enum64': {
        if (type.name === undefined && this.#options.anonymous) return this.#options.anonymous(id, depth);
        return `${type.kind === 'enum64' ? 'enum' : type.kind} ${type.name ?? '{ … }'}`;
      }
      case 'fwd':
        return `${type.of} ${type.name ?? ''}`;
      case 'void':
        return 'void';
      case 'decl_tag':
        return `decl_tag ${type.tag}`;
      case 'datasec':
        return `section ${type.name ?? ''}`;
      default:
        return type.name ?? `(${type.kind} without a name)`;
    }
  }
}

/** Qualifiers of the pointer itself stand behind its star. */
function pointerQualifiers(qualifiers: string, declarator: string): string {
  const own = qualifiers.trim();
  return own === '' ? '' : ` ${own}${declarator === '' ? '' : ' '}`;
}

/** A pointer binds less tightly than what follows it. */
function grouped(declarator: string): string {
  return declarator.startsWith('*') ? `(${declarator})` : declarator;
}

function joined(type: string, declarator: string): string {
  if (declarator === '' || declarator.startsWith('[')) return type + declarator;
  return `${type} ${declarator}`;
}
