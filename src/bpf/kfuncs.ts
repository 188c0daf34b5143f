/**
 * Kernel functions that programs may call (`CALL.KFUNC`). A kernel numbers them by its BTF; a process has none, so the
 * numbers are ours: a loader puts them where an object names the function.
 */

/** Numbers of the kernel functions that exist here. */
export const KFUNC = {
  /** open-coded iterator over numbers: `bpf_for`, `bpf_repeat` */
  bpf_iter_num_new: 1,
  bpf_iter_num_next: 2,
  bpf_iter_num_destroy: 3,
  /** an address as a pointer to a type that is only read: `bpf_core_cast` */
  bpf_rdonly_cast: 4,
  /** whether a session program runs at the function's return */
  bpf_session_is_return: 5,
  /** eight bytes that a session program's entry hands to its return */
  bpf_session_cookie: 6,
  /**
   * where the call of a session program has its frame: the address of the stack word with its return address, less the
   * number of tail calls that share the word. Of two calls on one stack the inner one has the lower number.
   */
  bpf_session_frame: 7,
} as const;

const names = new Map<number, string>(Object.entries(KFUNC).map(([name, id]) => [id, name]));
const ids = new Map<string, number>(Object.entries(KFUNC));

/** The name of kernel function `id`; `undefined` for a number that none has. */
export function kfuncName(id: number): string | undefined {
  return names.get(id);
}

/** The number of the kernel function `name`; `undefined` where there is none here. */
export function kfuncNumber(name: string): number | undefined {
  return ids.get(name);
}
