/** The running kernel's settings, for `.kconfig` variables: what it was configured with, its version, and what it can. */

import { existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { gunzipSync } from 'node:zlib';

/** Number or text by name. Settings that can't be read are not there. */
export function readKconfig(): ReadonlyMap<string, bigint | string> {
  const settings = new Map<string, bigint | string>();
  for (const line of configText().split('\n')) {
    const found = /^(CONFIG_\w+)=(.*)$/.exec(line);
    if (found === null) continue;
    const [, name, value] = found;
    if (/^-?(0x[\da-f]+|\d+)$/i.test(value)) settings.set(name, BigInt(value));
    else settings.set(name, value.replace(/^"(.*)"$/s, '$1'));
  }
  const [major = 0, minor = 0, patch = 0] = (/^(\d+)\.(\d+)(?:\.(\d+))?/.exec(release()) ?? [])
    .slice(1)
    .map(part => Number(part ?? 0));
  settings.set('LINUX_KERNEL_VERSION', BigInt((major << 16) | (minor << 8) | Math.min(patch, 255)));
  // True of every kernel with BTF for x86-64 that has tracing programs.
  settings.set('LINUX_HAS_SYSCALL_WRAPPER', 1n);
  settings.set('LINUX_HAS_BPF_COOKIE', 1n);
  return settings;
}

function configText(): string {
  try {
    if (existsSync('/proc/config.gz')) return gunzipSync(readFileSync('/proc/config.gz')).toString('latin1');
    const path = [`/boot/config-${release()}`, `/lib/modules/${release()}/config`].find(existsSync);
    return path === undefined ? '' : readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
