/**
 * Functions that must not be traced although their entries could be patched: the kernel's counterpart is
 * `notrace` and the deny list of `btf_id_deny`. By name and module only; what the instructions tell is entry.ts.
 */

export interface Denied {
  readonly names: RegExp;
  /** The names as the documentation has them. */
  readonly shown: string;
  /** The list applies only to modules that have one of these symbols. */
  readonly modulesWith?: readonly string[];
  /** Completes "can't be traced: …". */
  readonly why: string;
}

export const DENIED: readonly Denied[] = [
  {
    names: /^__restore(_rt)?$/,
    shown: '`__restore_rt`, `__restore`',
    why: 'it is the return from a signal handler, which unwinders and debuggers know by its bytes',
  },
  {
    names: /\.cold(\.|$)|\.__part\.\d+$/,
    shown: '`*.cold*`, `*.__part.N`',
    why: 'it is a part of another function that was placed elsewhere, entered by a jump in that function’s frame',
  },
  {
    names: /^OUTLINED_FUNCTION_\d+(\.|$)/,
    shown: '`OUTLINED_FUNCTION_N`',
    why: 'it is a piece that the compiler took out of several functions, and works in their frames',
  },
  {
    names: /^_start$/,
    shown: '`_start`',
    why: 'the kernel jumps to it: there is no return address on its stack',
  },
  {
    names: /^_dl_runtime_(resolve|profile)/,
    shown: '`_dl_runtime_resolve*`, `_dl_runtime_profile*`',
    why: 'procedure linkage tables jump to it with two more words on the stack than a call leaves',
  },
  {
    names: /^__morestack(_non_split)?$/,
    shown: '`__morestack`',
    why: 'it switches stacks and returns into the middle of its caller',
  },
  {
    names: /^(__syscall_cp_asm|__cp_begin|__cp_end|__cp_cancel|__syscall_cancel_arch(_start|_end)?)$/,
    shown: '`__syscall_cp_asm`, `__cp_*`, `__syscall_cancel_arch*`',
    why: 'thread cancellation asks whether a thread stands inside its own bytes',
  },
  {
    names: /^TcmallocSlab_|^(__)?rseq_\w*(start|abort|post_commit)/,
    shown: '`TcmallocSlab_*`, labels of restartable sequences',
    why: 'the kernel restarts it by the address that a thread is at (rseq): moved instructions would not be seen',
  },
  {
    names: /^Builtins_/,
    shown: '`Builtins_*` (of V8)',
    modulesWith: [
      'v8_Default_embedded_blob_code_',
      'v8_Default_embedded_blob_code',
      'v8_code_start_for_profiler_',
    ],
    why: 'V8 copies the code of its builtins elsewhere, and looks them up by return address',
  },
  {
    names: /^(v8_code_start_for_profiler_|v8_Default_embedded_blob_code_*)$/,
    shown: '`v8_Default_embedded_blob_code_`, `v8_code_start_for_profiler_`',
    why: 'it is a label in front of code that V8 copies elsewhere',
  },
  {
    names: /^(v8_internal_simulator_ProbeMemory|v8_simulator_probe_memory_continuation)$/,
    shown: '`v8_internal_simulator_ProbeMemory`',
    why: 'V8 recognises a fault by the address of its first instruction',
  },
  {
    names: /^_?SafeFetch(32|N)(_impl|_fault|_continuation)?$/,
    shown: '`SafeFetch32*`, `SafeFetchN*`',
    why: 'the Java virtual machine recognises a fault by the address of its first instruction',
  },
  {
    names: /^lj_(BC|vm|ff|fff|cont|hook|jit)_\w+$/,
    shown: '`lj_BC_*`, `lj_vm_*`, … (of LuaJIT)',
    modulesWith: ['lj_vm_asm_begin'],
    why: 'LuaJIT’s interpreter jumps to it in the middle of its own frame',
  },
  {
    names: /./,
    shown: 'everything in a module with BoringSSL’s FIPS part',
    modulesWith: ['BORINGSSL_bcm_text_start'],
    why: 'BoringSSL’s FIPS module checks the bytes of its own code when it starts',
  },
];

/**
 * Why the function `name` must not be traced, as the end of a sentence; `undefined` where it may be.
 * `moduleHasSymbol` says whether its module has a symbol of exactly that name.
 */
export function denied(name: string, moduleHasSymbol: (symbol: string) => boolean): string | undefined {
  for (const { names, modulesWith, why } of DENIED) {
    if (names.test(name) && (!modulesWith || modulesWith.some(moduleHasSymbol))) return why;
  }
  return undefined;
}
