/**
 * The guest's root file system: busybox, this node, the project as built from its present sources, and the agent.
 */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { extname, join, relative, sep } from 'node:path';
import { ROOT } from '../support/paths.js';
import { commandPath } from '../support/skip.js';
import { CpioArchive } from './cpio.js';
import { PORT_MODULES, type VmKernel } from './kernels.js';

/** The project's folder in the guest. */
export const GUEST_ROOT = '/app';
/** The port's name: the guest finds its device by it. */
export const PORT = 'multitrace';
const PACKAGES = ['commander', 'iced-x86', 'koffi', '@koromix/koffi-linux-x64'];

const INIT = `#!/bin/sh
export PATH=/bin HOME=/tmp NODE_NO_WARNINGS=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
hostname guest
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
# The machine tells of it after the driver is there.
for i in $(seq 300); do
  port=$(grep -l '^${PORT}$' /sys/class/virtio-ports/*/name 2> /dev/null) && break
  usleep 100000
done
port=/dev/$(basename $(dirname $port))
node ${GUEST_ROOT}/tests/vm/guest/agent.js $port
echo "the agent ended with status $?"
poweroff -f
`;

let compiled: ReadonlyMap<string, Buffer> | undefined;

/**
 * The sources and the guest programs compiled, by path from the project's folder; once in a test process, so that no guest
 * runs an old build, and in a folder of its own, for other test processes compile at the same time.
 */
function compile(): ReadonlyMap<string, Buffer> {
  if (compiled !== undefined) return compiled;
  const folder = mkdtempSync(join(tmpdir(), 'multitrace-vm-'));
  try {
    const tsc = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
    const project = join(ROOT, 'tests', 'vm', 'guest');
    const done = spawnSync(process.execPath, [tsc, '-p', project, '--outDir', folder], { encoding: 'utf8' });
    if (done.status !== 0)
      throw new Error(`the guest's programs don't compile:\n${done.stdout}${done.stderr}`);
    const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(
      name => extname(name) === '.js',
    );
    compiled = new Map(files.map(name => [name, readFileSync(join(folder, name))]));
    return compiled;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The archive's pieces, in order; `files` are the caller's: path in the guest to contents or a path here. */
export function initramfs(
  kernel: VmKernel,
  files: Readonly<Record<string, Uint8Array | string>>,
): readonly Uint8Array[] {
  const programs = compile();
  const archive = new CpioArchive();
  for (const folder of ['/proc', '/sys', '/dev', '/tmp', '/root', '/etc']) archive.folder(folder);
  archive.characterDevice('/dev/console', 5, 1);
  archive.file('/init', Buffer.from(INIT), 0o755);
  addBusybox(archive);
  archive.file('/bin/node', readFileSync(process.execPath), 0o755);
  archive.file(
    '/bin/multitrace',
    Buffer.from(`#!/bin/sh\nexec node ${GUEST_ROOT}/bin/multitrace "$@"\n`),
    0o755,
  );
  const koffi = join(ROOT, 'node_modules/@koromix/koffi-linux-x64/linux_x64/koffi.node');
  for (const library of librariesOf([process.execPath, koffi, commandPath('busybox')!])) {
    archive.file(library, readFileSync(library), 0o755);
  }
  addProject(archive, programs);
  const present = PORT_MODULES.filter(name => kernel.modules[name] !== undefined);
  archive.file('/modules/order', Buffer.from(present.join('\n')));
  for (const [name, path] of Object.entries(kernel.modules)) {
    archive.file(`/modules/${name}.ko`, readFileSync(path));
  }
  for (const [path, content] of Object.entries(files)) {
    archive.file(path, typeof content === 'string' ? readFileSync(content) : content, 0o755);
  }
  archive.end();
  return archive.pieces;
}

function addBusybox(archive: CpioArchive): void {
  const busybox = commandPath('busybox')!;
  archive.file('/bin/busybox', readFileSync(busybox), 0o755);
  const { stdout } = spawnSync(busybox, ['--list'], { encoding: 'utf8' });
  const applets = stdout.split('\n').filter(name => name !== '' && name !== 'busybox');
  for (const name of applets) archive.symlink(`/bin/${name}`, 'busybox');
}

/** The paths of the shared libraries that programs load, the loader's too. */
function librariesOf(programs: readonly string[]): string[] {
  const { stdout } = spawnSync('ldd', [...programs], { encoding: 'utf8' });
  return [...new Set([...stdout.matchAll(/^\s.*?(\/\S+) \(0x/gm)].map(match => match[1]))];
}

/** The project as it is installed: src compiled to dist, and its dependencies. */
function addProject(archive: CpioArchive, programs: ReadonlyMap<string, Buffer>): void {
  const add = (path: string, at = path) =>
    archive.file(join(GUEST_ROOT, at), readFileSync(join(ROOT, path)), 0o755);
  add('package.json');
  add('bin/multitrace');
  for (const [name, bytes] of programs)
    archive.file(join(GUEST_ROOT, name.replace(/^src\//, 'dist/')), bytes, 0o644);
  addFolder(archive, join(ROOT, 'share'), join(GUEST_ROOT, 'share'));
  // Guest programs import ../../../src: the same modules as the command's.
  archive.symlink(join(GUEST_ROOT, 'src'), 'dist');
  for (const name of PACKAGES) {
    const folder = join('node_modules', name);
    addFolder(archive, join(ROOT, folder), join(GUEST_ROOT, folder), [
      '.js',
      '.cjs',
      '.mjs',
      '.json',
      '.node',
      '.wasm',
    ]);
  }
}

function addFolder(archive: CpioArchive, from: string, to: string, extensions?: readonly string[]): void {
  if (!existsSync(from)) return;
  const real = realpathSync(from);
  for (const entry of readdirSync(real, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || (extensions !== undefined && !extensions.includes(extname(entry.name)))) continue;
    const path = join(entry.parentPath, entry.name);
    const name = relative(real, path);
    if (/^(vendor|tests|doc|musl_x64)$/.test(name.split(sep)[0]) && from.includes('node_modules')) continue;
    archive.file(join(to, name), readFileSync(path), 0o644);
  }
}
