/** What a machine without a kernel has of one: the functions for programs that every machine has, and nothing else. */

import { kfuncNumber } from '../bpf/kfuncs.js';
import type { KernelNames } from './kernel.js';

export const NO_KERNEL: KernelNames = {
  kfuncNumber,
  ksymAddress: () => undefined,
  ksymTypeId: () => undefined,
  kconfig: () => undefined,
};
