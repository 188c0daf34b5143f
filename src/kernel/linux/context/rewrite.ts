/**
 * Makes a program that reads its context as an fentry program does one that a kernel can run in another form: a main
 * program of ours (main.ts) builds that context on its stack and calls the program, whose calls are changed (calls.ts). A
 * program that needs no such thing stays as it is. Instructions in, instructions out; the kernel's verifier judges them.
 */

import { layoutOf } from '../../../bpf/layout.js';
import { callEdits } from './calls.js';
import { editProgram } from './edit.js';
import type { ContextForm, ContextKernel, ContextProgram, RewrittenProgram, SavedState } from './form.js';
import { emitMain } from './main.js';
import { planContext } from './plan.js';
import { type ContextUse, contextUse } from './use.js';

export type { ContextForm, ContextKernel, ContextProgram, RewrittenProgram, SavedState } from './form.js';
export { type ContextUse, contextUse } from './use.js';

/**
 * The array map that a program needs in this form for what calls' entries hand on to their returns. `undefined` where it
 * needs none. Throws as `rewriteContext`.
 */
export function savedState(
  program: ContextProgram,
  form: ContextForm,
  use = contextUse(program),
): SavedState | undefined {
  return planContext(program, use, form).saved;
}

/**
 * The program for this form. `saved` is the map that `savedState` asks for; halves of a session share it. Throws EOPNOTSUPP
 * where the form can't give what the program reads, EACCES where no form can, E2BIG where a jump becomes too long.
 */
export function rewriteContext(
  program: ContextProgram,
  form: ContextForm,
  kernel: ContextKernel,
  options: { readonly saved?: { readonly id: number }; readonly use?: ContextUse } = {},
): RewrittenProgram {
  const use = options.use ?? contextUse(program);
  const plan = planContext(program, use, form);
  const { insns, funcInfo = [], lineInfo = [], attachType, btf } = program;
  const result = {
    attachType,
    accessedArgs: use.accessedArgs,
    typedArgs: use.typedArgs,
    typedResult: use.typedResult,
    wrapped: plan.main,
  };
  const main = plan.main ? emitMain({ program, use, plan, kernel, saved: options.saved }) : [];
  // The half at the entry of a program that runs at the return alone.
  const runs = [plan.entry, plan.return].some(run => run?.calls === true);
  if (!runs) return { ...result, insns: main, funcInfo: [], lineInfo: [] };
  const isReturn = plan.return !== undefined;
  const { insns: own, slot } = editProgram(insns, callEdits({ program, use, plan, kernel, isReturn }));
  const mainSlots = layoutOf(main).slots;
  const moved = <T extends { readonly slot: number }>(info: T): T => ({
    ...info,
    slot: mainSlots + slot(info.slot),
  });
  const all = { insns: [...main, ...own], funcInfo: funcInfo.map(moved), lineInfo: lineInfo.map(moved) };
  if (!plan.main || btf === undefined || funcInfo.length === 0)
    return { ...result, ...all, ...(btf === undefined ? {} : { btf }) };
  // Main's type is the program's own. No function is verified by itself then: all are static in what the kernel gets.
  const [line] = lineInfo;
  return {
    ...result,
    ...all,
    btf,
    funcInfo: [{ ...funcInfo[0], slot: 0 }, ...all.funcInfo],
    lineInfo: line === undefined ? [] : [{ ...line, slot: 0 }, ...all.lineInfo],
  };
}
