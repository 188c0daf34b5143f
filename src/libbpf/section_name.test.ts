import { describe, expect, test } from 'vitest';
import { parseSectionName, splitSelectors } from './section_name.js';

describe('section names', () => {
  test.each([
    ['fentry/main', 'fentry', false, false, true, ['main']],
    ['fexit.multi/libc:malloc,libc:free', 'fexit', true, false, true, ['libc:malloc', 'libc:free']],
    ['fentry.multi.s/libc:* !libc:_*', 'fentry', true, true, true, ['libc:*', '!libc:_*']],
    ['?fmod_ret/libc:open', 'fmod_ret', false, false, false, ['libc:open']],
    ['fmod_ret.multi/x', 'fmod_ret', true, false, true, ['x']],
    ['fsession.multi/lib[ab,c]:f', 'fsession', true, false, true, ['lib[ab,c]:f']],
    ['fsession', 'fsession', false, false, true, []],
    ['fentry.s/std::vector<int, int>::*', 'fentry', false, true, true, ['std::vector<int', 'int>::*']],
  ] as const)('%s', (text, attachType, multi, sleepable, autoload, selectors) => {
    expect(parseSectionName(text)).toEqual({ text, attachType, multi, sleepable, autoload, selectors });
  });

  test.each([
    ['kprobe/do_sys_open', /probes of the kernel/],
    ['uretprobe/libc:malloc', /probes of the kernel/],
    ['tp/syscalls/sys_enter_open', /tracepoints/],
    ['xdp', /the network/],
    ['cgroup/skb', /control groups/],
    ['?lsm/file_open', /security hooks/],
    ['fentry2/x', /no section name/],
    ['mine', /no section name/],
  ] as const)('%s is refused by name', (text, why) => {
    expect(() => parseSectionName(text)).toThrow(why);
    expect(() => parseSectionName(text)).toThrow(text);
  });

  test('selectors split at commas and spaces outside of classes', () => {
    expect(splitSelectors(' a, b  c\\,d ,[x,y]z,')).toEqual(['a', 'b', 'c\\,d', '[x,y]z']);
  });
});
