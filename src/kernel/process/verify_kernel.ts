/**
 * A machine without a process: it takes maps and programs as a process would, verifies, and runs nothing.
 */

import { MAP_TYPE } from '../../bpf/map_type.js';
import type { Btf } from '../../btf/btf.js';
import { SelectorSet } from '../../process/symbols/selector.js';
import { BpfError } from '../errno.js';
import type { Judgement, JudgingKernel } from '../judgement.js';
import type {
  BpfMap,
  BpfProg,
  FunctionPrototype,
  LinkCreateAttr,
  MapCreateAttr,
  MultiLinkCreateAttr,
  ProgLoadAttr,
  TargetCheck,
  TargetFunction,
} from '../kernel.js';
import { NO_KERNEL } from '../no_kernel.js';
import type { FileTargets } from './file_targets.js';
import { programContext } from './link/context.js';
import { MapShape } from './maps/shape.js';
import { POSSIBLE_CPUS } from './threads/layout.js';
import type { VerifiedProgram } from './verifier/verified.js';
import { verifyProgram } from './verifier/verifier.js';

/** Where functions and types come from: files, for the command. */
export type VerifyTargets = Pick<FileTargets, 'match' | 'modules' | 'types'>;

export class VerifyKernel implements JudgingKernel {
  readonly names = NO_KERNEL;
  readonly possibleCpus = POSSIBLE_CPUS;
  readonly mayPrint = false;
  /** By the program's name. */
  readonly judgements = new Map<string, Judgement>();
  readonly #files: VerifyTargets;
  readonly #maps = new Map<number, MapShape>();
  #nextId = 1;

  constructor(files: VerifyTargets) {
    this.#files = files;
  }

  mapCreate(attr: MapCreateAttr): BpfMap {
    const map = new MapShape(attr, this.#nextId++);
    this.#maps.set(map.id, map);
    return map;
  }

  progLoad(attr: ProgLoadAttr): BpfProg {
    const maps = new Map<number, MapShape>();
    for (const { id, name } of attr.maps) {
      const map = this.#maps.get(id);
      if (map === undefined)
        throw new BpfError('EBADF', `program ${attr.name} names map ${name}, which is not of this machine`);
      maps.set(id, map);
    }
    const target = attr.forAnyFunction ? undefined : attr.target;
    const prototype = target && this.prototypeOf(target);
    const begin = performance.now();
    let verified: VerifiedProgram | undefined;
    try {
      verified = verifyProgram(attr.insns, {
        attachType: attr.attachType,
        prototype,
        ...(attr.argumentWords === undefined ? {} : { nargs: attr.argumentWords, anyResult: true }),
        maps,
        btf: attr.btf,
        funcInfo: attr.funcInfo,
        lineInfo: attr.lineInfo,
        sleepable: attr.sleepable ?? false,
        logLevel: attr.logLevel ?? 0,
      });
    } finally {
      this.judgements.set(attr.name, {
        statistics: verified?.statistics,
        log: verified?.log ?? '',
        timeMs: performance.now() - begin,
        target,
        prototype,
      });
    }
    const { tailCalls } = verified.needs;
    const context = programContext(verified);
    const kind = { name: attr.name, attachType: attr.attachType, context };
    if (tailCalls)
      for (const { id, type } of verified.usedMaps)
        if (type === MAP_TYPE.PROG_ARRAY) maps.get(id)?.accept(kind);
    return {
      ...kind,
      id: this.#nextId++,
      // Whom it calls by a tail call may read what any program may.
      accessedArgs: tailCalls ? [...context.args.keys()] : verified.accessedArgs,
      jitedSize: 0,
      log: verified.log,
      xlated: verified.insns,
      free: () => {},
    };
  }

  enableStats(): void {}

  functions(selectors: SelectorSet): TargetFunction[] {
    return this.#files.match(selectors);
  }
  functionsNamed(names: readonly string[]): TargetFunction[][] {
    return names.map(name => this.#files.match(SelectorSet.parse([name])));
  }
  functionAt(_address: bigint): undefined {
    return undefined;
  }
  prototypeOf({ prototype }: TargetFunction): FunctionPrototype | undefined {
    return prototype;
  }
  modules(): string[] {
    return this.#files.modules();
  }
  moduleTypes(module: string): Btf | undefined {
    return this.#files.types(module);
  }

  linkCreate(_attr: LinkCreateAttr | MultiLinkCreateAttr): never {
    throw new BpfError('EOPNOTSUPP', 'programs are only verified here; attach them to a process');
  }
  check(_targets: readonly TargetFunction[]): TargetCheck[] {
    throw new BpfError(
      'EOPNOTSUPP',
      'programs are only verified here; ask a process, or `multitrace list --file`',
    );
  }
  readTrace(): string[] {
    return [];
  }
  close(): void {
    this.#maps.clear();
  }
}
