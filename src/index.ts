/**
 * What the package exports, and nothing else: a live process and the running kernel as machines that take BPF programs, and
 * what is needed to write, attach and read them.
 */

export * as bpf from './bpf/builder.js';
export { HELPER } from './bpf/helpers.js';
export type { BpfInsn } from './bpf/instruction.js';
export { MAP_TYPE, UPDATE } from './bpf/map_type.js';
export { BpfError, type ErrnoName } from './kernel/errno.js';
export type {
  BpfLink,
  BpfMap,
  BpfProg,
  Kernel,
  LinkCreateAttr,
  LinkInfo,
  LinkPattern,
  LinkTarget,
  MapCreateAttr,
  MultiLinkCreateAttr,
  ProgLoadAttr,
  SkippedFunction,
  TargetCheck,
  TargetFunction,
  TracingLink,
  TracingMultiLink,
} from './kernel/kernel.js';
export { KernelFeatures } from './kernel/linux/features.js';
export { LinuxKernel } from './kernel/linux/machine.js';
export { KernelSession } from './kernel/linux/session.js';
export { ProcessKernel } from './kernel/process/machine.js';
export { Session } from './kernel/process/session.js';
export { RefusedTargetError } from './kernel/refused.js';
export type { SessionEnd, SessionTool, TracingSession } from './kernel/session.js';
export * from './libbpf/index.js';
export { openProcess, type TracedProcess } from './process/process.js';
export { spawnStopped } from './process/spawn.js';
export { SelectorSet } from './process/symbols/selector.js';
export { Counter, type FunctionCount } from './tools/count.js';
