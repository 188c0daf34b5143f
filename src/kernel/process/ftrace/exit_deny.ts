/**
 * Functions that must not be traced at their return: for that their return address is replaced while they run, and these
 * look at it, return through it twice, or have none. Entries are deny_list.ts's.
 */

import type { ElfFile } from '../../../elf/file.js';
import { lastStartingAtOrBefore } from '../../../elf/ranges.js';
import { CFA, unwindRows } from '../../../elf/unwind_rows.js';
import type { SkipReason } from '../../kernel.js';
import type { PatchSite } from './patch_site.js';
import { readsReturnAddress } from './reads_return.js';

interface Denied {
  readonly names: RegExp;
  /** The names as the documentation has them. */
  readonly shown: string;
  /** Completes "can't be traced at its return: …". */
  readonly why: string;
}

/** By name. */
export const EXIT_DENIED: readonly Denied[] = [
  {
    names: /^_*(sig)?setjmp(_syscall|ex)?$|^__libc_siglongjmp$/,
    shown: '`setjmp`, `_setjmp`, `sigsetjmp`, `__libc_siglongjmp`',
    why: 'it returns twice, the second time by longjmp',
  },
  {
    names: /^_*(getcontext|setcontext|swapcontext|makecontext|__start_context)$/,
    shown: '`getcontext`, `setcontext`, `swapcontext`, `makecontext`',
    why: 'it saves its return address to go on there later',
  },
  {
    names: /^_*(libc_|GI_+)?vfork$|^_*clone[23]?$|^syscall$/,
    shown: '`vfork`, `clone`, `clone2`, `clone3`, `syscall`',
    why: 'it may return in two processes that share one memory',
  },
  {
    names:
      /^_*(dlsym|dlvsym|dlopen|dlmopen|dl_sym\w*|dl_vsym|dl_open|dl_mopen\w*|libc_dl\w+|dlerror\w*|dladdr1?)$/,
    shown: '`dlopen`, `dlsym`, `dladdr`, `dlerror` and their like',
    why: 'it knows the library that calls it by its return address',
  },
  {
    names:
      /^(__)?_Unwind_|^_*unw_|^_U(L)?x86_64_|^__(register|deregister)_frame|^__(gcc|gxx)_personality|^uw_/,
    shown: '`_Unwind_*`, `unw_*`, `__register_frame*`, C++ personality routines',
    why: 'it unwinds the stack that it runs on',
  },
  {
    names: /^_*mcount\w*$|^__fentry__$|^__cyg_profile_func_(enter|exit)$|^_*mcleanup$/,
    shown: '`mcount`, `__fentry__`, `__cyg_profile_func_*`',
    why: 'a profiler knows its caller by the return address',
  },
  {
    names: /^_*(libc_start_main|libc_start_call_main|start_thread|_dl_start\w*|_dl_main|dl_main)(@|$)/,
    shown: '`__libc_start_main`, `start_thread`, `_dl_start*`',
    why: 'threads and programs begin in it: it has no caller to return to',
  },
  {
    names: /^_dl_(tlsdesc|relocate_static_pie)\w*|^__tls_get_addr\w*$/,
    shown: '`_dl_tlsdesc*`, `__tls_get_addr`, `_dl_relocate_static_pie`',
    why: 'its callers rely on registers that no calling convention keeps',
  },
  {
    names: /^__x86_(indirect|return)_thunk|^__llvm_retpoline|^__x86\.get_pc_thunk/,
    shown: '`__x86_indirect_thunk*`, `__x86_return_thunk`, `__llvm_retpoline*`, `__x86.get_pc_thunk*`',
    why: 'it uses its return address as data',
  },
  {
    names: /^_*(sanitizer|asan|tsan|msan|ubsan|hwasan|lsan|interceptor)_/i,
    shown: '`__asan_*`, `__tsan_*`, `__sanitizer_*` and their like',
    why: 'a sanitizer knows its caller by the return address',
  },
];

/** Runtimes that walk their own stacks by return address: none of their functions can be traced at the return. */
export const RUNTIMES: readonly {
  readonly shown: string;
  readonly functions: readonly string[];
  readonly names?: RegExp;
  readonly why: string;
}[] = [
  {
    shown: 'all of a Go program',
    functions: ['runtime.gopanic', 'runtime.morestack'],
    why: 'Go walks and moves its stacks, and ends the program at a return address that it does not know',
  },
  {
    shown: 'all of an OCaml program',
    functions: ['caml_alloc_string', 'caml_startup'],
    why: 'OCaml’s garbage collector finds what is alive by return addresses',
  },
  {
    shown: 'all of a Haskell program',
    functions: ['hs_init', 'stg_ap_v_fast'],
    why: 'Haskell’s runtime keeps its own stack, where the C one is expected',
  },
  {
    shown: '`*v8*`, `*node*`, `*Builtin*`, `*Runtime*` of a program with V8',
    functions: ['v8_Default_embedded_blob_code_', 'v8_Default_embedded_blob_code'],
    names: /v8|node|Builtin|Runtime/,
    why: 'V8 looks its callers up by return address',
  },
];

/** Why a function can't be traced at its return, beside the names of `EXIT_DENIED`. */
export const EXIT_REFUSALS = {
  'denied-exit': 'something relies on its return address; the sentence says what',
  'loops-to-entry':
    'it jumps back to its own entry, where what is on the stack need not be its return address',
  'no-return-address':
    'its unwind entry says that it begins in the frame of another function: no return address is on top of its stack',
} as const;

/** Whether function `names` (all names of one) of a module must not be traced at its return; `undefined` where it may. */
export function exitDenied(
  site: PatchSite,
  names: readonly string[],
  elf: ElfFile,
  hasSymbol: (name: string) => boolean,
): SkipReason | undefined {
  for (const name of names)
    for (const denied of EXIT_DENIED)
      if (denied.names.test(name)) return { reason: 'denied-exit', detail: denied.why };
  for (const runtime of RUNTIMES)
    if (
      runtime.functions.some(hasSymbol) &&
      (runtime.names === undefined || names.some(n => runtime.names!.test(n)))
    )
      return { reason: 'denied-exit', detail: runtime.why };
  const code = elf.bytesFrom(site.function);
  if (code !== undefined && readsReturnAddress(code))
    return { reason: 'denied-exit', detail: 'it reads its return address, perhaps to go on there later' };
  if (site.loopsToEntry) return { reason: 'loops-to-entry', detail: EXIT_REFUSALS['loops-to-entry'] };
  if (site.function === elf.entry || !returnAddressOnTop(elf, site.function))
    return { reason: 'no-return-address', detail: EXIT_REFUSALS['no-return-address'] };
  return undefined;
}

const rows = new WeakMap<ElfFile, ReturnType<typeof unwindRows>>();
const KIND_BITS = 2;
const OFFSET_MASK = 0xffff;

/** Unless the unwind table knows better. */
function returnAddressOnTop(elf: ElfFile, address: number): boolean {
  let table = rows.get(elf);
  if (table === undefined) {
    table = unwindRows(elf);
    rows.set(elf, table);
  }
  const { base, pcs, rules } = table;
  const index = lastStartingAtOrBefore(pcs as unknown as readonly number[], address - base, pc => pc);
  if (index < 0) return true;
  const rule = rules[index];
  if ((rule & 3) === CFA.special) return true;
  return (rule & 3) === CFA.rsp && ((rule >>> KIND_BITS) & OFFSET_MASK) === 1;
}
