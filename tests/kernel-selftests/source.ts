/**
 * The kernel's own BPF tests, as Debian packages them: fetched when they are wanted, kept outside of the project. They
 * are another project's files under another licence: only verdicts are taken from them.
 */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { missingCommand } from '../support/skip.js';

const PACKAGE = 'linux-source-6.12';
/** Where the sources stay between runs, and what is compiled of them. */
export const CACHE = join(
  process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'),
  'multitrace',
  'kernel-selftests',
);
/** What is taken out of the package: the tests, and the headers that they include. */
const FOLDERS = ['tools/testing/selftests/bpf', 'tools/include', 'tools/lib/bpf', 'tools/arch/x86/include'];

/** The root of the kernel's tree, of which only `FOLDERS` are there. */
export const KERNEL_TREE = join(CACHE, PACKAGE);
export const SELFTESTS = join(KERNEL_TREE, 'tools', 'testing', 'selftests', 'bpf');

/** Why the tests are not there and can't be had; fetches them (half a minute) where `fetch` allows it. */
export function missingSelftests(fetch: boolean): string | undefined {
  if (existsSync(SELFTESTS)) return undefined;
  if (!fetch) return `${PACKAGE} is not in ${CACHE}; the long form of the tests fetches it`;
  const missing = missingCommand('apt-get', 'dpkg-deb', 'tar', 'xz', 'bash');
  return missing ?? download();
}

function download(): string | undefined {
  mkdirSync(CACHE, { recursive: true });
  const folder = mkdtempSync(join(CACHE, 'fetch-'));
  try {
    const fetched = spawnSync('apt-get', ['download', '-q', PACKAGE], { cwd: folder, encoding: 'utf8' });
    const archive = readdirSync(folder).find(name => name.endsWith('.deb'));
    if (fetched.status !== 0 || archive === undefined)
      return `apt-get download ${PACKAGE}: ${fetched.stderr.trim().split('\n').at(-1) ?? 'nothing came'}`;
    const paths = FOLDERS.map(path => `'${PACKAGE}/${path}/*'`).join(' ');
    const unpack = [
      'set -o pipefail',
      `dpkg-deb --fsys-tarfile ${archive} | tar -xO ./usr/src/${PACKAGE}.tar.xz | tar -xJ --wildcards ${paths}`,
    ].join('; ');
    const unpacked = spawnSync('bash', ['-c', unpack], { cwd: folder, encoding: 'utf8' });
    if (unpacked.status !== 0) return `${archive} can't be unpacked: ${unpacked.stderr.trim()}`;
    renameSync(join(folder, PACKAGE), KERNEL_TREE);
    return undefined;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
