// `npm test`: set-up on a fresh clone, then types, lint and every test. `--soak` runs the long forms too, `--vm` every
// kernel that virtual machines are tested with; other arguments go to vitest (`npm test -- tests/stdio.test.ts`). The
// last line says what passed, failed and was skipped.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { build, installDependencies, ROOT } from './setup.mjs';

/** What the tests run, by the Debian package that has it. */
const PACKAGES = [
  {
    name: 'build-essential',
    commands: ['gcc', 'g++', 'ld', 'make'],
    used: 'every test with a program of its own',
  },
  {
    name: 'binutils',
    commands: ['nm', 'strip', 'objcopy', 'readelf'],
    used: 'symbols and stripped programs',
  },
  {
    name: 'clang-19',
    commands: ['clang-19', 'clang++-19'],
    used: 'programs and BPF objects compiled by clang',
  },
  {
    name: 'libc++-19-dev',
    files: ['/usr/lib/llvm-19/lib/libc++.so'],
    used: 'programs with the unwinder of LLVM',
  },
  {
    name: 'libunwind8',
    files: ['/usr/lib/x86_64-linux-gnu/libunwind.so.8'],
    used: 'programs with the unwinder of nongnu.org',
  },
  {
    name: 'llvm-19',
    commands: ['llvm-objdump-19', 'llvm-mc-19'],
    used: 'an independent disassembler of BPF',
  },
  { name: 'libbpf-dev', files: ['/usr/include/bpf/bpf_helpers.h'], used: 'BPF programs in C, the examples' },
  { name: 'pahole', commands: ['pahole'], used: 'types made from debug information' },
  { name: 'musl-tools', commands: ['musl-gcc'], used: 'musl programs' },
  { name: 'gdb', commands: ['gdb'], used: 'the independent count of calls' },
  { name: 'sqlite3', commands: ['sqlite3'], used: 'whole programs' },
  { name: 'openssl', commands: ['openssl'], used: 'whole programs' },
  { name: 'python3', commands: ['python3'], used: 'whole programs, dlopen' },
  { name: 'git', commands: ['git'], used: 'whole programs' },
  { name: 'bsdutils', commands: ['script'], used: 'programs on a terminal' },
  { name: 'util-linux', commands: ['setpriv'], used: 'running without privileges, virtual machines' },
  { name: 'qemu-system-x86', commands: ['qemu-system-x86_64'], used: 'virtual machines' },
  { name: 'busybox-static', commands: ['busybox'], used: 'virtual machines' },
  { name: 'zstd', commands: ['zstd'], used: 'unpacking kernels' },
  { name: 'lz4', commands: ['lz4'], used: 'unpacking kernels' },
  { name: 'xz-utils', commands: ['xz'], used: 'unpacking kernels' },
];

const onPath = command => process.env.PATH.split(delimiter).some(folder => existsSync(join(folder, command)));
const missing = () =>
  PACKAGES.filter(({ commands = [], files = [] }) => !commands.every(onPath) || !files.every(existsSync));

function installPackages() {
  const wanted = missing();
  if (wanted.length === 0) return;
  const names = wanted.map(({ name }) => name);
  const install = ['install', '-y', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=120', ...names];
  if (process.getuid() === 0 && onPath('apt-get')) {
    process.stderr.write(`multitrace: installing what the tests need: ${names.join(' ')}\n`);
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    const options = { env, stdio: ['ignore', 'ignore', 2] };
    spawnSync('apt-get', ['update', '-q'], options);
    spawnSync('apt-get', install, options);
  }
  const left = missing();
  if (left.length === 0) return;
  const lines = left.map(({ name, used }) => `  ${name}: ${used}`);
  process.stderr.write(
    `multitrace: these packages are missing, and the tests that need them will be skipped:\n${lines.join('\n')}\n` +
      `  to have them: apt-get install -y ${left.map(({ name }) => name).join(' ')}\n`,
  );
}

/** Runs a tool of node_modules under this node; its exit status. */
function run(title, script, args, env = {}) {
  process.stdout.write(`\n== ${title}\n`);
  const done = spawnSync(process.execPath, [join(ROOT, 'node_modules', script), ...args], {
    cwd: ROOT,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, ...env },
  });
  return done.status ?? 1;
}

/** How many tests passed, failed and were skipped; a file that could not be run counts as one failure. */
function count(report) {
  if (!existsSync(report)) return { passed: 0, failed: 1, skipped: 0 };
  const { testResults } = JSON.parse(readFileSync(report, 'utf8'));
  const totals = { passed: 0, failed: 0, skipped: 0 };
  for (const file of testResults) {
    let failedHere = false;
    for (const { status } of file.assertionResults) {
      if (status === 'passed') totals.passed++;
      else if (status === 'failed') totals.failed++;
      else totals.skipped++;
      failedHere ||= status === 'failed';
    }
    if (file.status === 'failed' && !failedHere) totals.failed++;
  }
  return totals;
}

const given = process.argv.slice(2);
const soak = given.includes('--soak');
const everyKernel = given.includes('--vm');
const passedOn = given.filter(argument => argument !== '--soak' && argument !== '--vm');

installDependencies();
installPackages();
build();

const REPORT = join(ROOT, 'build', 'test-report.json');
mkdirSync(join(ROOT, 'build'), { recursive: true });
rmSync(REPORT, { force: true });

const statuses = [
  run('types', 'typescript/bin/tsc', ['-p', 'tsconfig.json', '--noEmit']),
  run('lint', '@biomejs/biome/bin/biome', ['check', '.']),
  run(
    soak ? 'tests, long forms too' : 'tests',
    'vitest/vitest.mjs',
    ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${REPORT}`, ...passedOn],
    { ...(soak && { MULTITRACE_SOAK: '1' }), ...(everyKernel && { MULTITRACE_VM: 'all' }) },
  ),
];

const totals = count(REPORT);
process.exitCode = Math.max(...statuses);
// The last line counts tests only: what else failed stands above it.
['types', 'lint'].forEach((title, i) => {
  if (statuses[i] !== 0) process.stdout.write(`\n${title}: failed, see above\n`);
});
process.stdout.write(`\n${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped\n`);
