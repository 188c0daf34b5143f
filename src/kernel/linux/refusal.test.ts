/** Why a kernel refuses, by what it shows of the process: files that stand in for those of /proc and /sys. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type KernelView, lockdownLevel, missingPrivilege, whyRefused } from './refusal.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'multitrace-view-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

interface Shown {
  readonly capabilities?: bigint;
  readonly seccomp?: number;
  readonly uidMap?: string;
  readonly lockdown?: string;
}

const ALL = (1n << 41n) - 1n;
const [SYS_ADMIN, PERFMON, BPF] = [1n << 21n, 1n << 38n, 1n << 39n];
const FIRST_NAMESPACE = '         0          0 4294967295\n';
let views = 0;

function view({ capabilities = ALL, seccomp = 0, uidMap = FIRST_NAMESPACE, lockdown }: Shown): KernelView {
  const file = (name: string, text: string | undefined): string => {
    const path = join(folder, `${name}${views++}`);
    if (text !== undefined) writeFileSync(path, text);
    return path;
  };
  const status = `Name:\tnode\nCapEff:\t${capabilities.toString(16).padStart(16, '0')}\nSeccomp:\t${seccomp}\nSeccomp_filters:\t1\n`;
  return {
    status: file('status', status),
    uidMap: file('uid_map', uidMap),
    lockdown: file('lockdown', lockdown),
  };
}

test('a capability that is missing is named; CAP_SYS_ADMIN has both in it', () => {
  const missing = (capabilities: bigint) => missingPrivilege(view({ capabilities }));
  expect(missing(0n)).toMatch(/^it needs CAP_BPF and CAP_PERFMON, which .*run it as root$/);
  expect(missing(BPF)).toMatch(/^it needs CAP_PERFMON,/);
  expect(missing(PERFMON)).toMatch(/^it needs CAP_BPF,/);
  expect(missing(BPF | PERFMON)).toBeUndefined();
  expect(missing(SYS_ADMIN)).toBeUndefined();
});

test('root of a user namespace is told that it is not root enough', () => {
  expect(missingPrivilege(view({ uidMap: '         0       1000          1\n' }))).toMatch(/user namespace/);
});

test('lockdown is read where it is shown, and named where it refuses', () => {
  const locked = view({ lockdown: 'none integrity [confidentiality]\n' });
  expect(lockdownLevel(locked)).toBe('confidentiality');
  expect(whyRefused('EPERM', locked)).toMatch(/^this kernel is locked down \(confidentiality\)/);
  expect(lockdownLevel(view({ lockdown: '[none] integrity confidentiality\n' }))).toBe('none');
  expect(lockdownLevel(view({}))).toBeUndefined();
});

test('who has every capability is told what else refuses', () => {
  expect(whyRefused('EPERM', view({ seccomp: 2 }))).toMatch(/seccomp filter/);
  expect(whyRefused('EPERM', view({ lockdown: '[none] integrity confidentiality\n' }))).toMatch(
    /^this kernel's security policy refuses it even to root; /,
  );
  expect(whyRefused('EPERM', view({}))).toMatch(/securityfs is not mounted/);
  // The missing capability comes first: root would be told of the rest.
  expect(whyRefused('EPERM', view({ capabilities: 0n, seccomp: 2 }))).toMatch(/^it needs CAP_BPF/);
});

test('a kernel without bpf(2) is told as such, and what is no refusal of ours is left alone', () => {
  expect(whyRefused('ENOSYS', view({}))).toMatch(/no bpf\(2\)/);
  for (const code of ['EINVAL', 'E2BIG', 'ENOENT'] as const)
    expect(whyRefused(code, view({}))).toBeUndefined();
  expect(whyRefused('EACCES', view({}))).toBeUndefined();
  expect(whyRefused('EACCES', view({ capabilities: BPF }))).toMatch(/CAP_PERFMON/);
});
