/**
 * The types of a program that main was put before: a copy in which every function is static, so that the verifier follows
 * the built context into it, and main is a function, too.
 */

import { Btf } from '../../../btf/btf.js';
import { BtfBuilder } from '../../../btf/builder.js';
import type { FuncInfo } from '../../kernel.js';

export interface TypesWithMain {
  readonly btf: Btf;
  /** The type of main. */
  readonly main: number;
}

/** `funcInfo` is the program's own: main has the prototype of its first function. */
export function typesWithMain(btf: Btf, name: string, funcInfo: readonly FuncInfo[]): TypesWithMain {
  const builder = new BtfBuilder(btf.base === undefined ? {} : { base: btf.base });
  for (let id = btf.firstId; id <= btf.typeCount; id++) {
    const type = btf.type(id);
    builder.add(type.kind === 'func' && type.linkage === 'global' ? { ...type, linkage: 'static' } : type);
  }
  const [first] = funcInfo;
  const program = first === undefined ? undefined : btf.type(first.typeId);
  const proto =
    program?.kind === 'func'
      ? program.type
      : builder.addFuncProto(builder.addInt('int', 4, { signed: true }), []);
  const main = builder.addFunc(name, proto);
  const options = { name: btf.label, ...(btf.base === undefined ? {} : { base: btf.base }) };
  return { btf: Btf.parse(builder.build(), options), main };
}
