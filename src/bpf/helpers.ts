/**
 * BPF's helper functions by number (the list in linux/bpf.h, `___BPF_FUNC_MAPPER`): names for people. Which of
 * them a program may call, and with what, is the verifier's to say.
 */

/** Numbers of the helpers that the project names in code. */
export const HELPER = {
  map_lookup_elem: 1,
  map_update_elem: 2,
  map_delete_elem: 3,
  probe_read: 4,
  ktime_get_ns: 5,
  trace_printk: 6,
  get_prandom_u32: 7,
  get_smp_processor_id: 8,
  tail_call: 12,
  get_current_pid_tgid: 14,
  get_current_uid_gid: 15,
  get_current_comm: 16,
  perf_event_output: 25,
  get_stackid: 27,
  get_current_task: 35,
  probe_read_str: 45,
  get_stack: 67,
  map_push_elem: 87,
  map_pop_elem: 88,
  map_peek_elem: 89,
  spin_lock: 93,
  spin_unlock: 94,
  probe_read_user: 112,
  probe_read_kernel: 113,
  probe_read_user_str: 114,
  probe_read_kernel_str: 115,
  jiffies64: 118,
  ktime_get_boot_ns: 125,
  ringbuf_output: 130,
  ringbuf_reserve: 131,
  ringbuf_submit: 132,
  ringbuf_discard: 133,
  ringbuf_query: 134,
  get_task_stack: 141,
  copy_from_user: 148,
  snprintf_btf: 149,
  per_cpu_ptr: 153,
  this_cpu_ptr: 154,
  get_current_task_btf: 158,
  ktime_get_coarse_ns: 160,
  for_each_map_elem: 164,
  snprintf: 165,
  get_func_ip: 173,
  get_attach_cookie: 174,
  task_pt_regs: 175,
  get_branch_snapshot: 176,
  trace_vprintk: 177,
  find_vma: 180,
  loop: 181,
  strncmp: 182,
  get_func_arg: 183,
  get_func_ret: 184,
  get_func_arg_cnt: 185,
  map_lookup_percpu_elem: 195,
  dynptr_from_mem: 197,
  ringbuf_reserve_dynptr: 198,
  ringbuf_submit_dynptr: 199,
  ringbuf_discard_dynptr: 200,
  dynptr_read: 201,
  dynptr_write: 202,
  dynptr_data: 203,
  ktime_get_tai_ns: 208,
} as const;

const names = new Map<number, string>(Object.entries(HELPER).map(([name, id]) => [id, `bpf_${name}`]));

/** The name of helper `id`, such as `bpf_map_lookup_elem`; `undefined` for a number without a name here. */
export function helperName(id: number): string | undefined {
  return names.get(id);
}
