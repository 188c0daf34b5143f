/**
 * The main program that reads the context for a program and calls it:
 *
 *     main (context):
 *       read words of arguments and of the result onto the stack
 *       result = program (address of word 0)
 *       return result
 *
 * At the entry of a call that hands something on to its return, it puts that into a table by the call's frame, unless the
 * program's result is not 0; at the return it takes it out, and does nothing where nothing is there. It takes no lock: what
 * it runs in may be a function that holds one. Of a call that finds no place in the table the return is not seen; it is counted.
 */

import { ProgramBuilder, type ProgramLabel, R0, R1, R2, R3, R6, R7, R8, R10 } from '../../../bpf/builder.js';
import { HELPER } from '../../../bpf/helpers.js';
import type { BpfInsn } from '../../../bpf/instruction.js';
import { KFUNC } from '../../../bpf/kfuncs.js';
import { type CallLayout, callLayout, layoutOfIntegers } from '../../../process/symbols/call_layout.js';
import { BpfError } from '../../errno.js';
import { type CallTable, emitFind, emitSave, emitTake, SPREAD } from './call_table.js';
import { AS_NUMBER } from './calls.js';
import { castableTo } from './cast.js';
import type { ContextKernel, ContextProgram } from './form.js';
import { type ContextPlan, PLACE, type RunPlan } from './plan.js';
import type { ContextUse } from './use.js';

const WORD = 8;

/** Bytes of `struct pt_regs` (asm/ptrace.h, x86-64): rdi, rsi, rdx, rcx, r8, r9; rax, rdx; rsp. */
const PT_REGS = { args: [112, 104, 96, 88, 72, 64], result: [80, 96], sp: 152 } as const;
/** The stack pointer of a return is above the return address, which it points to at the entry. */
const RETURN_ADDRESS = 8;

export interface MainInput {
  readonly program: ContextProgram;
  readonly use: ContextUse;
  readonly plan: ContextPlan;
  readonly kernel: ContextKernel;
  /** The table of what is saved. */
  readonly saved?: { readonly id: number } | undefined;
}

/** Main, which expects the program right behind it. Throws EOPNOTSUPP for a word that the form does not have. */
export function emitMain(input: MainInput): BpfInsn[] {
  return new Main(input).emit();
}

class Main {
  readonly #input: MainInput;
  readonly #layout: CallLayout;
  readonly #b = new ProgramBuilder();
  readonly #program: ProgramLabel = this.#b.label();

  constructor(input: MainInput) {
    this.#input = input;
    const { prototype, argumentWords } = input.program;
    this.#layout =
      prototype !== undefined || argumentWords === undefined
        ? callLayout(prototype)
        : layoutOfIntegers(argumentWords, ['rax', 'rdx']);
  }

  emit(): BpfInsn[] {
    const { plan } = this.#input;
    const { entry, return: back } = plan;
    const b = this.#b;
    b.mov(R6, R1);
    b.store(8, R10, this.#at(PLACE.real), R6);
    const apart =
      plan.runs === 'session' &&
      entry !== undefined &&
      back !== undefined &&
      (plan.saved !== undefined || plan.context === 'pt_regs');
    if (apart) {
      const returned = b.label();
      b.mov(R1, R6);
      b.callKfunc(this.#kfunc('bpf_session_is_return'));
      b.jump('ne', R0, 0, returned);
      this.#entry(entry);
      b.bind(returned);
      this.#return(back);
    } else if (entry !== undefined && back !== undefined) {
      this.#frame(0);
      const words = [...new Set([...entry.words, ...back.words])];
      for (const word of words) this.#argument(word);
      for (const word of new Set([...entry.result, ...back.result])) this.#result(word);
      this.#call();
      b.exit();
    } else if (entry !== undefined) this.#entry(entry);
    else if (back !== undefined) this.#return(back);
    b.bind(this.#program);
    return b.build();
  }

  /** Offset from main's frame pointer of a place of `PLACE`, or of a word of the context. */
  #at(place: number): number {
    return this.#input.plan.contextAt + place;
  }

  #wordAt(word: number): number {
    return this.#at(WORD * word);
  }

  #kfunc(name: string): number {
    const id = this.#input.kernel.kfunc(name);
    if (id === undefined) throw new BpfError('EOPNOTSUPP', `this kernel has no ${name}`);
    return id;
  }

  #table(): CallTable {
    const { plan, saved } = this.#input;
    if (saved === undefined || plan.saved === undefined)
      throw new BpfError('EINVAL', 'a session without a table for what its entry hands on');
    const { lost, words } = plan.saved;
    return { map: saved, contextAt: plan.contextAt, lost, words };
  }

  #entry({ words, result, calls }: RunPlan): void {
    const { saved, clearsCookie } = this.#input.plan;
    const b = this.#b;
    if (clearsCookie) {
      b.mov(R1, R6);
      b.callKfunc(this.#kfunc('bpf_session_cookie'));
      b.store(8, R0, 0, 0);
    }
    this.#frame(0);
    for (const word of words) this.#argument(word);
    // There is none yet.
    for (const word of result) b.store(8, R10, this.#wordAt(this.#input.use.argumentWords + word), 0);
    if (saved === undefined) {
      if (calls) this.#call();
      else b.mov(R0, 0);
      b.exit();
      return;
    }
    b.store(8, R10, this.#at(PLACE.cookie), 0);
    if (calls) {
      const unwanted = b.label();
      this.#call();
      b.mov(R7, R0);
      b.jump('ne', R7, 0, unwanted);
      emitSave(b, this.#table(), unwanted);
      b.bind(unwanted);
      b.mov(R0, R7);
    } else {
      const done = b.label();
      emitSave(b, this.#table(), done);
      b.bind(done);
      b.mov(R0, 0);
    }
    b.exit();
  }

  #return({ words, result }: RunPlan): void {
    const { saved, context } = this.#input.plan;
    const b = this.#b;
    this.#frame(context === 'pt_regs' ? RETURN_ADDRESS : 0);
    if (saved !== undefined) {
      const found = b.label();
      const none = b.label();
      emitFind(b, this.#table(), found, none);
      b.bind(none);
      b.mov(R0, 0);
      b.exit();
      b.bind(found);
      emitTake(b, this.#table());
    }
    for (const word of words)
      if (saved?.words.includes(word)) this.#cast(this.#wordAt(word), this.#argumentType(word));
      else this.#argument(word);
    for (const word of result) this.#result(word);
    this.#call();
    b.exit();
  }

  /** Where this call has its frame; and r8 = by what it is known among those that are under way, for this run and the program's. */
  #frame(above: number): void {
    const { plan, use } = this.#input;
    const b = this.#b;
    if (plan.saved === undefined && !use.kfuncs.has(KFUNC.bpf_session_frame)) return;
    if (plan.context === 'pt_regs') {
      b.load(8, R1, R6, PT_REGS.sp);
      if (above !== 0) b.add(R1, -above);
    } else {
      b.mov(R1, R6);
      for (const insn of AS_NUMBER) b.emit(insn);
    }
    b.store(8, R10, this.#at(PLACE.frame), R1);
    if (plan.saved === undefined) return;
    b.mov(R8, R1);
    if (plan.context !== 'pt_regs') return;
    // A function that another one jumps to has the same frame.
    b.ldImm64(R2, SPREAD);
    b.mul(R8, R2);
    b.mov(R1, R6);
    b.call(HELPER.get_func_ip);
    b.add(R8, R0);
  }

  #argument(word: number): void {
    const { plan } = this.#input;
    const b = this.#b;
    const at = this.#wordAt(word);
    if (plan.context === 'typed') {
      b.load(8, R1, R6, WORD * word);
      b.store(8, R10, at, R1);
      return;
    }
    if (plan.context === 'pt_regs') this.#fromRegisters(word, at);
    else {
      // The helper writes nothing where the function has no such word.
      b.store(8, R10, at, 0);
      b.mov(R1, R6);
      b.mov(R2, word);
      b.mov(R3, R10);
      b.add(R3, at);
      b.call(HELPER.get_func_arg);
    }
    this.#cast(at, this.#argumentType(word));
  }

  /** What the function was called with: words that it does not have are what happens to be there. */
  #fromRegisters(word: number, at: number): void {
    const place = this.#layout.words[word];
    const b = this.#b;
    if (place?.in === 'register') {
      b.load(8, R1, R6, PT_REGS.args[place.index]);
      b.store(8, R10, at, R1);
    } else if (place?.in === 'stack') {
      b.load(8, R3, R6, PT_REGS.sp);
      b.add(R3, place.offset);
      b.mov(R1, R10);
      b.add(R1, at);
      b.mov(R2, WORD);
      b.call(HELPER.probe_read_kernel);
    } else {
      throw new BpfError(
        'EOPNOTSUPP',
        `program ${this.#input.program.name} reads word ${word} of the arguments, which a kprobe does not have`,
      );
    }
  }

  #result(word: number): void {
    const { plan, program, use } = this.#input;
    const b = this.#b;
    const at = this.#wordAt(use.argumentWords + word);
    if (plan.context === 'pt_regs') {
      b.load(8, R1, R6, PT_REGS.result[word]);
      b.store(8, R10, at, R1);
    } else if (word > 0) {
      // No function that trampolines take returns more than a word.
      b.store(8, R10, at, 0);
    } else if (plan.context === 'typed') {
      b.load(8, R1, R6, WORD * use.argumentWords);
      b.store(8, R10, at, R1);
      return;
    } else {
      b.store(8, R10, at, 0);
      b.mov(R1, R6);
      b.mov(R2, R10);
      b.add(R2, at);
      b.call(HELPER.get_func_ret);
    }
    if (word === 0) this.#cast(at, program.prototype?.returns);
  }

  /** The type of an argument of one word, where one is known. */
  #argumentType(word: number): number | undefined {
    const position = this.#layout.args.findIndex(arg => arg?.first === word && arg.count === 1);
    return position < 0 ? undefined : this.#input.program.prototype?.args?.[position];
  }

  /** Makes a pointer to a structure one that the program can read through. */
  #cast(at: number, type: number | undefined): void {
    const { program, kernel } = this.#input;
    const id = castableTo(program.prototype?.btf, type, kernel.types);
    const cast = kernel.kfunc('bpf_rdonly_cast');
    if (id === undefined || cast === undefined) return;
    const b = this.#b;
    b.load(8, R1, R10, at);
    b.mov(R2, id);
    b.callKfunc(cast);
    b.store(8, R10, at, R0);
  }

  #call(): void {
    const b = this.#b;
    b.mov(R1, R10);
    b.add(R1, this.#input.plan.contextAt);
    b.callSubprogram(this.#program);
  }
}
