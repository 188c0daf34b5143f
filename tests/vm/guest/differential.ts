/** The running kernel's judgement of objects: its arguments are their paths. Prints a line for each program. */

import { basename } from 'node:path';
import { LinuxKernel } from '../../../src/kernel/linux/machine.js';
import { judge } from './judge.js';

const kernel = new LinuxKernel();
const there = (name: string): boolean => kernel.functionsNamed([`kernel:${name}`])[0].length > 0;
for (const path of process.argv.slice(2))
  for (const verdict of judge(kernel, path, basename(path, '.bpf.o'), there))
    console.log(JSON.stringify(verdict));
kernel.close();
