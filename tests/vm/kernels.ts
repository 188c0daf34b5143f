/**
 * The kernels that are tested: those of three Debian suites, found by asking apt and kept in a cache, so that the
 * network is needed once. apt works on lists of its own here: the machine's are not touched.
 */

import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { missingCommand, missingFile } from '../support/skip.js';
import { unpackVmlinux } from './vmlinux.js';

export interface VmKernel {
  /** '6.1', '6.12' or 'newest'. */
  readonly name: string;
  /** What `uname -r` says. */
  readonly version: string;
  /** What is booted: the unpacked ELF file, or the bzImage where it could not be unpacked. */
  readonly image: string;
  readonly config: string;
  readonly systemMap: string;
  /** The modules that are kept (MODULES), by name. */
  readonly modules: Readonly<Record<string, string>>;
}

/** A kernel that can't be had, and why, as one sentence's end for a skipped test. */
export interface MissingKernel {
  readonly name: string;
  readonly missing: string;
}

/** A suite's metapackage of this name depends on its newest kernel for virtual machines. */
const METAPACKAGE = 'linux-image-cloud-amd64';
const KERNELS = [
  { name: '6.1', suite: 'bookworm' },
  { name: '6.12', suite: 'trixie' },
  { name: 'newest', suite: 'trixie-backports' },
] as const;
export type KernelName = (typeof KERNELS)[number]['name'];

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
/** What the agent's port needs, in the order to load; a kernel that has one built in lacks the file. */
export const PORT_MODULES = [
  'virtio',
  'virtio_ring',
  'virtio_pci_legacy_dev',
  'virtio_pci_modern_dev',
  'virtio_pci',
  'virtio_console',
];
/** The modules that are kept: one more to trace, a network device that does nothing. */
const MODULES = [...PORT_MODULES, 'dummy'];
/** To be changed with what is kept, so that older caches are left alone. */
const CACHE_FORMAT = 1;

const CACHE = join(
  process.env.XDG_CACHE_HOME || join(homedir(), '.cache'),
  'multitrace',
  'vm',
  `${CACHE_FORMAT}`,
);
const DESCRIPTION = 'kernel.json';

/** The kernels of this run: the newest alone, or all three (MULTITRACE_VM=all). Fetches those not in the cache. */
export function kernels(): readonly (VmKernel | MissingKernel)[] {
  const all = process.env.MULTITRACE_VM === 'all';
  return KERNELS.filter(({ name }) => all || name === 'newest').map(({ name }) => kernel(name));
}

export function newestKernel(): VmKernel | MissingKernel {
  return kernel('newest');
}

const known = new Map<string, VmKernel | MissingKernel>();

/** One kernel by name, from the cache or fetched into it. */
export function kernel(name: KernelName): VmKernel | MissingKernel {
  const before = known.get(name);
  if (before !== undefined) return before;
  const missing = missingCommand('qemu-system-x86_64', 'setpriv', 'busybox', 'ldd');
  let found: VmKernel | MissingKernel;
  if (missing !== undefined) found = { name, missing };
  else {
    try {
      if (!existsSync(join(CACHE, name, DESCRIPTION))) fetchKernel(name);
      found = readKernel(name);
    } catch (error) {
      found = { name, missing: `the ${name} kernel can't be fetched: ${(error as Error).message}` };
    }
  }
  known.set(name, found);
  return found;
}

function readKernel(name: string): VmKernel {
  const folder = join(CACHE, name);
  const { version, image } = JSON.parse(readFileSync(join(folder, DESCRIPTION), 'utf8'));
  const modules = existsSync(join(folder, 'modules')) ? readdirSync(join(folder, 'modules')) : [];
  return {
    name,
    version,
    image: join(folder, image),
    config: join(folder, 'config'),
    systemMap: join(folder, 'System.map'),
    modules: Object.fromEntries(
      modules.map(file => [basename(file, '.ko'), join(folder, 'modules', file)] as const),
    ),
  };
}

function fetchKernel(name: KernelName): void {
  const missing = missingCommand('apt-get', 'apt-cache', 'dpkg-deb', 'tar', 'xz') ?? missingFile(KEYRING);
  if (missing !== undefined) throw new Error(missing);
  process.stderr.write(`multitrace: fetching the ${name} kernel for the virtual machine\n`);
  mkdirSync(CACHE, { recursive: true });
  const folder = mkdtempSync(join(CACHE, '.fetching-'));
  try {
    const { suite } = KERNELS.find(one => one.name === name)!;
    const unpacked = fetchPackages(folder, suite);
    const kept = join(folder, 'kept');
    keepKernel(unpacked, kept);
    rmSync(join(CACHE, name), { recursive: true, force: true });
    renameSync(kept, join(CACHE, name));
  } catch (error) {
    // Another process may have been faster; its kernel is as good.
    if (!existsSync(join(CACHE, name, DESCRIPTION))) throw error;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Downloads a suite's kernel packages and unpacks what is wanted of them; the folder with it. */
function fetchPackages(folder: string, suite: string): string {
  const errors: string[] = [];
  for (const mirror of mirrors()) {
    const apt = new Apt(mkdtempSync(join(folder, 'apt-')), mirror, suite);
    const unpacked = join(folder, 'unpacked');
    try {
      apt.run('apt-get', 'update', '-q');
      mkdirSync(unpacked, { recursive: true });
      for (const file of apt.download(apt.kernelPackages())) unpackPackage(file, unpacked);
      return unpacked;
    } catch (error) {
      errors.push((error as Error).message);
    }
  }
  throw new Error(errors[0] ?? "no Debian archive is in this machine's apt configuration");
}

/** The archives that the machine's apt is configured for, Debian's own first; whether they are is up to the signature. */
function mirrors(): string[] {
  const { stdout } = spawnSync('apt-get', ['update', '--print-uris'], { encoding: 'utf8' });
  const found = [...stdout.matchAll(/'([^']+?)\/dists\/[^/']+\/InRelease'/g)].map(match => match[1]);
  const likely = (mirror: string) => (/\/debian$/.test(mirror) ? 0 : 1);
  return [...new Set(found)].sort((a, b) => likely(a) - likely(b)).slice(0, 2);
}

/** apt with a configuration, lists and cache of its own, for one suite. */
class Apt {
  private readonly config: string;

  constructor(
    private readonly folder: string,
    mirror: string,
    suite: string,
  ) {
    this.config = join(folder, 'apt.conf');
    const sources = join(folder, 'suite.sources');
    mkdirSync(join(folder, 'lists', 'partial'), { recursive: true });
    mkdirSync(join(folder, 'cache', 'archives', 'partial'), { recursive: true });
    writeFileSync(
      sources,
      `Types: deb\nURIs: ${mirror}\nSuites: ${suite}\nComponents: main\nSigned-By: ${KEYRING}\n`,
    );
    writeFileSync(
      this.config,
      [
        `Dir::Etc::sourcelist "${sources}";`,
        'Dir::Etc::sourceparts "-";',
        `Dir::State::lists "${join(folder, 'lists')}";`,
        `Dir::Cache "${join(folder, 'cache')}";`,
        'Acquire::Languages "none";',
        'Acquire::Retries "1";',
        'Acquire::http::Timeout "20";',
        'APT::Sandbox::User "";',
        'APT::Update::Error-Mode "any";',
      ].join('\n'),
    );
  }

  run(command: string, ...args: string[]): string {
    const done = spawnSync(command, args, {
      cwd: this.folder,
      encoding: 'utf8',
      env: { ...process.env, APT_CONFIG: this.config, LC_ALL: 'C' },
      timeout: 300_000,
    });
    if (done.status === 0) return done.stdout;
    const said = (done.stderr ?? '').split('\n').find(line => line.startsWith('E:'));
    throw new Error(
      `${command} ${args[0]} failed: ${said ?? done.error?.message ?? `status ${done.status}`}`,
    );
  }

  /** The packages that make up the suite's newest kernel, each as name=version. */
  kernelPackages(): string[] {
    const wanted = new Set<string>();
    const follow = (name: string, version: string) => {
      const fields = this.run('apt-cache', 'show', `${name}=${version}`);
      const depends = /^Depends: (.*)$/m.exec(fields)?.[1] ?? '';
      // Of the kernel's own source package: exactly its version.
      for (const [, dependency, exactly] of depends.matchAll(/(linux-[^ ,|]+) \(= ([^)]+)\)/g)) {
        const spec = `${dependency}=${exactly}`;
        if (exactly !== version || wanted.has(spec)) continue;
        wanted.add(spec);
        follow(dependency, exactly);
      }
    };
    const versions = this.run('apt-cache', 'madison', METAPACKAGE);
    const newest = versions.split('|')[1]?.trim();
    if (newest === undefined) throw new Error(`the archive has no ${METAPACKAGE}`);
    follow(METAPACKAGE, newest);
    return [...wanted];
  }

  download(packages: readonly string[]): string[] {
    this.run('apt-get', 'download', '-q', ...packages);
    return readdirSync(this.folder)
      .filter(file => file.endsWith('.deb'))
      .map(file => join(this.folder, file));
  }
}

function unpackPackage(file: string, into: string): void {
  const wanted = [
    'vmlinuz',
    'vmlinuz-*',
    'config',
    'config-*',
    'System.map*',
    ...MODULES.map(name => `${name}.ko*`),
  ];
  const patterns = wanted.map(name => `'*/${name}'`).join(' ');
  // Most of these packages have nothing that is wanted, which tar reports as an error; keepKernel sees what is missing.
  spawnSync('sh', [
    '-c',
    `dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --wildcards ${patterns}`,
    'sh',
    file,
    into,
  ]);
}

/** Lays out a kernel's folder of the cache from what its packages had. */
function keepKernel(unpacked: string, kept: string): void {
  mkdirSync(join(kept, 'modules'), { recursive: true });
  const files = readdirSync(unpacked, { recursive: true, encoding: 'utf8' }).map(file =>
    join(unpacked, file),
  );
  // In /boot their names end in the version; in /usr/lib/modules the folder's does.
  const one = (name: string) =>
    files.find(file => basename(file) === name || basename(file).startsWith(`${name}-`));
  const [vmlinuz, config, systemMap] = ['vmlinuz', 'config', 'System.map'].map(one);
  if (vmlinuz === undefined) throw new Error('its packages have no vmlinuz');
  const version = /vmlinuz-(.+)$/.exec(vmlinuz)?.[1] ?? basename(join(vmlinuz, '..'));
  if (config !== undefined) renameSync(config, join(kept, 'config'));
  if (systemMap !== undefined) renameSync(systemMap, join(kept, 'System.map'));
  for (const file of files.filter(path => /\.ko(\.xz)?$/.test(path))) {
    if (file.endsWith('.xz')) spawnSync('xz', ['-d', file]);
    const plain = file.replace(/\.xz$/, '');
    renameSync(plain, join(kept, 'modules', basename(plain)));
  }
  const vmlinux = unpackVmlinux(readFileSync(vmlinuz));
  if (vmlinux !== undefined) writeFileSync(join(kept, 'vmlinux'), vmlinux);
  else renameSync(vmlinuz, join(kept, 'vmlinuz'));
  const image = vmlinux === undefined ? 'vmlinuz' : 'vmlinux';
  writeFileSync(join(kept, DESCRIPTION), `${JSON.stringify({ version, image })}\n`);
}
