/** A stand-in until the machine is there. */

import { BpfError } from '../errno.js';
import type { Kernel, Way } from '../kernel.js';
import { KernelFeatures } from './features.js';

export interface LinuxKernelOptions {
  readonly way?: Way;
  readonly maxLinks?: number;
  progress?(text: string): void;
}

export function openLinux(_options: LinuxKernelOptions): Kernel {
  const { why } = new KernelFeatures().ways('fentry');
  throw new BpfError('EPERM', `the kernel can't be traced: ${why ?? 'not yet'}`);
}
