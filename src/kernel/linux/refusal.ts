/**
 * Why this kernel refuses, in one sentence each: what is missing, and what to do. The kernel gives a number alone; what
 * stands behind it is looked up where the kernel shows it: capabilities, user namespace, lockdown, seccomp.
 */

import { existsSync, readFileSync } from 'node:fs';
import type { ErrnoName } from '../errno.js';

/** linux/capability.h: what tracing programs take. CAP_SYS_ADMIN has both in it. */
const CAP_SYS_ADMIN = 21n;
const CAP_PERFMON = 38n;
const CAP_BPF = 39n;

/** Where the kernel shows what it thinks of us; another folder in tests. */
export interface KernelView {
  readonly status: string;
  readonly uidMap: string;
  readonly lockdown: string;
}

const VIEW: KernelView = {
  status: '/proc/self/status',
  uidMap: '/proc/self/uid_map',
  lockdown: '/sys/kernel/security/lockdown',
};

const DO_ELSEWHERE = 'trace on a machine, or in a virtual machine, whose kernel allows it';

/** `integrity` or `confidentiality`; `none`; `undefined` where it can't be seen (securityfs is not mounted, or no such module). */
export function lockdownLevel(view: KernelView = VIEW): string | undefined {
  return /\[(\w+)\]/.exec(readText(view.lockdown) ?? '')?.[1];
}

/** The capability that is missing for tracing programs; `undefined` where all are there. */
export function missingPrivilege(view: KernelView = VIEW): string | undefined {
  const status = readText(view.status);
  const bits = /^CapEff:\s*([0-9a-f]+)$/m.exec(status ?? '')?.[1];
  if (bits === undefined) return undefined;
  const effective = BigInt(`0x${bits}`);
  const has = (capability: bigint): boolean => ((effective >> capability) & 1n) === 1n;
  if (has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON))) {
    if (!inUserNamespace(view)) return undefined;
    return 'it needs CAP_BPF and CAP_PERFMON, and those of a user namespace do not count: run it as root outside of it';
  }
  const missing = has(CAP_BPF) ? 'CAP_PERFMON' : has(CAP_PERFMON) ? 'CAP_BPF' : 'CAP_BPF and CAP_PERFMON';
  return `it needs ${missing}, which this process does not have: run it as root`;
}

/** All ids of the first namespace are mapped to themselves. */
function inUserNamespace(view: KernelView): boolean {
  const map = readText(view.uidMap);
  return map !== undefined && !/^\s*0\s+0\s+4294967295\s*$/.test(map);
}

/** Why the kernel refused with this errno, where more can be said than its name; else `undefined`. */
export function whyRefused(code: ErrnoName | undefined, view: KernelView = VIEW): string | undefined {
  if (code === 'ENOSYS') return 'this kernel has no bpf(2), or a seccomp filter hides it';
  if (code !== 'EPERM' && code !== 'EACCES') return undefined;
  return missingPrivilege(view) ?? (code === 'EPERM' ? whyForbidden(view) : undefined);
}

/** Who has the capabilities, and is refused all the same. */
function whyForbidden(view: KernelView): string {
  const level = lockdownLevel(view);
  if (level !== undefined && level !== 'none')
    return `this kernel is locked down (${level}), which refuses it: start it without lockdown, or ${DO_ELSEWHERE}`;
  // SECCOMP_MODE_FILTER: containers have one.
  if (/^Seccomp:\s*2$/m.test(readText(view.status) ?? ''))
    return 'a seccomp filter of this process refuses it, as those of containers do: run it outside of the container';
  const unseen =
    level === undefined ? " (whether it is locked down can't be seen: securityfs is not mounted)" : '';
  return `this kernel's security policy refuses it even to root${unseen}; ${DO_ELSEWHERE}`;
}

/** Why the list of functions that can be traced can't be read; `undefined` where it can. */
export function whyNoFtrace(folders: readonly string[], view: KernelView = VIEW): string {
  if (process.getuid?.() !== 0) return 'only root may read it: run it as root';
  if (lockdownLevel(view) === 'confidentiality')
    return 'this kernel is locked down (confidentiality), which hides tracefs: start it without lockdown';
  if (!folders.some(folder => existsSync(`${folder}/available_tracers`)))
    return 'tracefs is not mounted: mount -t tracefs none /sys/kernel/tracing';
  if (!folders.some(folder => existsSync(`${folder}/available_filter_functions`)))
    return 'this kernel was built without ftrace (CONFIG_DYNAMIC_FTRACE)';
  return 'this kernel hides it even from root, by its security policy';
}

/** Why there are no types of the kernel. */
export const NO_KERNEL_TYPES =
  'this kernel has no BTF (/sys/kernel/btf/vmlinux): it was built without CONFIG_DEBUG_INFO_BTF, which no option mends';

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
