/** CO-RE against the types of the kernel that runs here, compared with what pahole prints of them. */

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Btf } from './btf.js';
import { computeCoreRelo, describe as describeRelo } from './core.js';
import { BtfExt } from './ext.js';
import {
  btfOf,
  CORE_HEADER,
  hasClang,
  hasPahole,
  hasVmlinux,
  sectionOf,
  VMLINUX,
  Workshop,
} from './fixture.js';

const workshop = new Workshop();
afterAll(() => workshop.remove());

/** Local types know little, in another order, and with flavors. */
const PROGRAM = `${CORE_HEADER}
enum hrtimer_mode___mine { HRTIMER_MODE_REL___mine = 77 };
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct mm_struct; struct net_device;
struct signal_struct { int nr_threads; };
struct task_struct { char comm[16]; int tgid; struct task_struct *real_parent; struct mm_struct *mm; struct signal_struct *signal; unsigned in_iowait : 1; unsigned sched_migrated : 1; };
struct task_struct___mine { int pid; unsigned in_execve : 1; int no_such_field; };
struct sk_buff { unsigned len; struct net_device *dev; u8 cloned : 1; u8 ip_summed : 2; u8 fclone : 2; u16 protocol; };
struct path { struct dentry *dentry; };
struct file { struct path f_path; };
struct qstr { const unsigned char *name; };
struct dentry { struct qstr d_name; struct dentry *d_parent; };
struct no_such_struct { int a; };
#pragma clang attribute pop
u64 out[64];
#define ALL(field) FIELD_INFO(field, 0) + FIELD_INFO(field, 1) + FIELD_INFO(field, 4) + FIELD_INFO(field, 5)
SEC("fentry/fields") u64 fields(struct task_struct *t, struct task_struct___mine *m, struct sk_buff *s, struct file *f) {
  out[0] = FIELD_INFO(t->comm, 0) + FIELD_INFO(t->comm, 1); out[1] = ALL(t->tgid); out[2] = ALL(t->real_parent); out[3] = ALL(t->in_iowait); out[4] = ALL(t->sched_migrated);
  out[5] = ALL(m->pid); out[6] = ALL(m->in_execve); out[7] = FIELD_INFO(m->no_such_field, 2); out[8] = FIELD_INFO(t->mm, 2);
  out[9] = ALL(s->len); out[10] = ALL(s->dev); out[11] = ALL(s->cloned); out[12] = ALL(s->ip_summed); out[13] = ALL(s->fclone); out[14] = ALL(s->protocol);
  out[15] = ALL(t->signal->nr_threads);
  return 0; }
SEC("fentry/load") u64 load(struct file *f) { return *f->f_path.dentry->d_parent->d_name.name; }
SEC("fentry/types") u64 types(void) {
  out[0] = __builtin_preserve_type_info(*(struct task_struct *)0, 1); out[1] = __builtin_preserve_type_info(*(struct no_such_struct *)0, 0);
  out[2] = __builtin_btf_type_id(*(struct task_struct___mine *)0, 1); out[3] = __builtin_preserve_type_info(*(struct sk_buff *)0, 0);
  out[4] = __builtin_preserve_enum_value(*(enum hrtimer_mode___mine *)HRTIMER_MODE_REL___mine, 1);
  return 0; }
`;

/** A member as pahole prints it: `type name[n]:bits; /* offset: bit size *\/`. */
const MEMBER = /(\w+)\)?(?:\[\d*\])*(?:\([^;]*\))?(?::(\d+))?;\s*\/\*\s*(\d+)(?::\s*(\d+))?\s+(\d+)\s*\*\//;

interface PaholeMember {
  readonly offset: number;
  readonly size: number;
  readonly bit: number;
  readonly bits: number;
}

function pahole(struct: string): { size: number; members: Map<string, PaholeMember> } {
  const text = execFileSync('pahole', ['-C', struct, VMLINUX], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const members = new Map<string, PaholeMember>();
  for (const line of text.split('\n')) {
    const [, name, bits, offset, bit, size] = MEMBER.exec(line) ?? [];
    if (name !== undefined && !members.has(name))
      members.set(name, {
        offset: Number(offset),
        size: Number(size),
        bit: Number(bit ?? 0),
        bits: Number(bits ?? 8 * Number(size)),
      });
  }
  return { size: Number(/size: (\d+)/.exec(text)?.[1]), members };
}

describe.skipIf(!hasClang || !hasPahole || !hasVmlinux)('a program and the running kernel', () => {
  let results: { section: string; text: string; value: bigint | undefined }[] = [];
  let vmlinux: Btf;
  beforeAll(() => {
    vmlinux = Btf.parse(readFileSync(VMLINUX), { name: VMLINUX, trusted: true });
    const object = workshop.bpf(PROGRAM);
    const local = btfOf(object);
    const ext = BtfExt.parse(sectionOf(object, '.BTF.ext'), local);
    results = [...ext.coreRelos].flatMap(([section, relos]) =>
      relos.map(relo => {
        const result = computeCoreRelo(relo, local, [vmlinux]);
        return {
          section,
          text: describeRelo(relo, local),
          value: result.kind === 'value' ? result.value : undefined,
        };
      }),
    );
  });
  const comesTo = (text: string): number => {
    const found = results.find(result => result.text === text);
    expect(found?.value, text).toBeDefined();
    return Number(found?.value);
  };

  it.each([
    ['task_struct', 'task_struct', ['comm', 'tgid', 'real_parent', 'in_iowait', 'sched_migrated']],
    ['task_struct', 'task_struct___mine', ['pid', 'in_execve']],
    ['sk_buff', 'sk_buff', ['len', 'dev', 'cloned', 'ip_summed', 'fclone', 'protocol']],
    ['signal_struct', 'signal_struct', ['nr_threads']],
  ])('has the fields of %s where pahole says that they are (as %s)', (struct, own, fields) => {
    const { members } = pahole(struct);
    for (const field of fields) {
      const member = members.get(field);
      if (member === undefined) throw new Error(`pahole prints no ${struct}.${field}`);
      const info = (kind: string): number => comesTo(`field_${kind} of struct ${own}.${field}`);
      const start = info('byte_offset');
      const size = info('byte_size');
      const isBitfield = member.bits !== 8 * member.size;
      if (!isBitfield) expect([start, size], field).toEqual([member.offset, member.size]);
      if (field === 'comm') continue;
      // What the two shifts leave: bits of the loaded bytes, wherever the load begins.
      const right = info('rshift_u64');
      const left = info('lshift_u64');
      expect(64 - right, field).toBe(member.bits);
      const firstBit = start * 8 + 64 - left - member.bits;
      expect(firstBit, field).toBe(member.offset * 8 + member.bit);
      expect(firstBit + member.bits, field).toBeLessThanOrEqual((start + size) * 8);
    }
  });

  it('loads through nested structs and pointers', () => {
    const loads = results
      .filter(({ section }) => section === 'fentry/load')
      .map(({ value }) => Number(value));
    const offset = (struct: string, field: string): number => pahole(struct).members.get(field)!.offset;
    expect(loads).toEqual([
      offset('file', 'f_path') + offset('path', 'dentry'),
      offset('dentry', 'd_parent'),
      offset('dentry', 'd_name') + offset('qstr', 'name'),
    ]);
  });

  it('knows sizes, ids, enumerators, and what is not there', () => {
    expect(comesTo('type_size of struct task_struct')).toBe(pahole('task_struct').size);
    expect(comesTo('type_exists of struct no_such_struct')).toBe(0);
    expect(comesTo('type_exists of struct sk_buff')).toBe(1);
    expect(comesTo('field_exists of struct task_struct___mine.no_such_field')).toBe(0);
    expect(comesTo('field_exists of struct task_struct.mm')).toBe(1);
    const id = comesTo('type_id_target of struct task_struct___mine');
    expect(vmlinux.type(id)).toMatchObject({ kind: 'struct', name: 'task_struct' });
    const mode = vmlinux.find('hrtimer_mode', 'enum');
    const rel = vmlinux.type(mode!);
    expect(rel.kind === 'enum' && rel.values.find(({ name }) => name === 'HRTIMER_MODE_REL')?.value).toBe(
      BigInt(comesTo('enumval_value of enum hrtimer_mode___mine::HRTIMER_MODE_REL___mine')),
    );
  });
});
