/** What helpers ask of their arguments: memory that they fill, the context, texts, and what is known of their results. */

import { type ProgramBuilder, R0, R1, R2, R3, R4, R5, R6, R7, R10 } from '../../../../bpf/builder.js';
import { HELPER } from '../../../../bpf/helpers.js';
import { end, found, MAPS, type Rule } from '../rules_fixture.js';
import { at, keyed, MORE, testPairs, withExit } from './fixture.js';

/** `helper` copies `size` bytes of address r1 to r10-16. */
const copied = (p: ProgramBuilder, helper: number, size = 8): ProgramBuilder =>
  at(p.load(8, R3, R1), R1, -16)
    .mov(R2, size)
    .call(helper);

/** A string is copied, and the byte of 32 that its length names is read. */
const indexedByLength = (p: ProgramBuilder, helper: number, size: number): ProgramBuilder =>
  withExit(found(p.mov(R6, R1), MAPS.wide).mov(R7, R0), out => {
    at(p.load(8, R3, R6), R1, -64)
      .mov(R2, size)
      .call(helper);
    p.jump('slt', R0, 0, out).add(R7, R0).load(1, R2, R7);
  });

/** strtol or strtoul of the 8 bytes at r10-8, into `result` of the stack. */
const parsed = (p: ProgramBuilder, helper: number, result: number, size = 8): ProgramBuilder =>
  at(
    at(p.store(8, R10, -8, 0), R1, -8)
      .mov(R2, size)
      .mov(R3, 0),
    R4,
    result,
  ).call(helper);

/** snprintf of 'value %d' with `size` bytes of arguments. */
const printed = (p: ProgramBuilder, size: number): ProgramBuilder => {
  at(p.store(8, R10, -8, 1).store(8, R10, -16, 1), R1, -64)
    .mov(R2, 32)
    .ldMapValue(R3, MAPS.rodata);
  return at(p, R4, -16).mov(R5, size).call(HELPER.snprintf);
};

const MEMORY: readonly Rule[] = [
  {
    name: 'probe_read fills memory',
    accept: p => end(copied(p, HELPER.probe_read)),
    refuse: p => end(p.load(8, R3, R1).mov(R1, R3).mov(R2, 8).call(HELPER.probe_read)),
    because: 'R1 type=scalar expected=fp, map_key, map_value, mem',
  },
  {
    name: 'probe_read is told an address',
    accept: p => end(copied(p, HELPER.probe_read)),
    refuse: p => end(at(p, R1, -16).mov(R2, 8).call(HELPER.probe_read)),
    because: 'R3 !read_ok',
  },
  {
    name: 'probe_read_kernel does not fill constants',
    accept: p => end(p.load(8, R3, R1).ldMapValue(R1, MAPS.global).mov(R2, 8).call(HELPER.probe_read_kernel)),
    refuse: p => end(p.load(8, R3, R1).ldMapValue(R1, MAPS.rodata).mov(R2, 8).call(HELPER.probe_read_kernel)),
    because: 'write into map forbidden',
  },
  {
    name: 'probe_read_user stays inside a value',
    accept: p =>
      end(p.load(8, R3, R1).ldMapValue(R1, MAPS.global, 8).mov(R2, 56).call(HELPER.probe_read_user)),
    refuse: p =>
      end(p.load(8, R3, R1).ldMapValue(R1, MAPS.global, 8).mov(R2, 57).call(HELPER.probe_read_user)),
    because: 'invalid access to map value, value_size=64 off=8 size=57',
  },
  {
    name: 'the length of probe_read_str is at most the size',
    accept: p => end(indexedByLength(p, HELPER.probe_read_str, 31)),
    refuse: p => end(indexedByLength(p, HELPER.probe_read_str, 32)),
    because: 'value_size=32 off=32 size=1',
  },
  {
    name: 'the length of probe_read_kernel_str is at most the size',
    accept: p => end(indexedByLength(p, HELPER.probe_read_kernel_str, 31)),
    refuse: p => end(indexedByLength(p, HELPER.probe_read_kernel_str, 48)),
    because: 'value_size=32 off=48 size=1',
  },
  {
    name: 'probe_read_user_str fails with a negative number',
    accept: p => end(indexedByLength(p, HELPER.probe_read_user_str, 8)),
    refuse: p => {
      found(p.mov(R6, R1), MAPS.wide).mov(R7, R0);
      at(p.load(8, R3, R6), R1, -64)
        .mov(R2, 8)
        .call(HELPER.probe_read_user_str);
      return end(p.add(R7, R0).load(1, R2, R7));
    },
    because: 'value_size=32 off=-4095 size=1',
  },
  {
    name: 'a size is no pointer',
    accept: p => end(copied(p, HELPER.probe_read_user_str)),
    refuse: p => end(at(p.mov(R2, R1).mov(R3, 0), R1, -16).call(HELPER.probe_read_user_str)),
    because: 'R2 is a pointer, and the size of memory must be a number',
  },
  {
    name: 'what is filled is no pointer any more',
    accept: p =>
      end(
        copied(p.store(8, R10, -8, R1), HELPER.probe_read)
          .load(8, R2, R10, -8)
          .load(8, R3, R2),
      ),
    refuse: p =>
      end(
        copied(p.store(8, R10, -8, R1), HELPER.probe_read, 16)
          .load(8, R2, R10, -8)
          .load(8, R3, R2),
      ),
    because: "R2 invalid mem access 'scalar'",
  },
  {
    name: 'copy_from_user fills what is there',
    accept: p => end(found(p, MAPS.wide).mov(R1, R0).mov(R2, 32).mov(R3, 0).call(HELPER.copy_from_user)),
    refuse: p =>
      end(keyed(p, MAPS.wide).call(1).mov(R1, R0).mov(R2, 32).mov(R3, 0).call(HELPER.copy_from_user)),
    because: 'R1 type=map_value_or_null expected=fp, map_key, map_value, mem',
    env: { sleepable: true },
  },
  {
    name: 'get_current_comm stays inside a value',
    accept: p => end(p.ldMapValue(R1, MAPS.global, 48).mov(R2, 16).call(HELPER.get_current_comm)),
    refuse: p => end(p.ldMapValue(R1, MAPS.global, 56).mov(R2, 16).call(HELPER.get_current_comm)),
    because: 'value_size=64 off=56 size=16',
  },
];

const CONTEXT: readonly Rule[] = [
  {
    name: 'get_func_ip wants the context',
    accept: p => end(p.call(HELPER.get_func_ip)),
    refuse: p => end(p.load(8, R1, R1).call(HELPER.get_func_ip)),
    because: 'R1 type=scalar expected=ctx',
  },
  {
    name: 'get_func_arg_cnt wants the context',
    accept: p => end(p.call(HELPER.get_func_arg_cnt)),
    refuse: p => end(p.ldMap(R1, MAPS.counts).call(HELPER.get_func_arg_cnt)),
    because: 'R1 type=map_ptr expected=ctx',
  },
  {
    name: 'the number of an argument is a number',
    accept: p => end(at(p.mov(R2, 1), R3, -8).call(HELPER.get_func_arg)),
    refuse: p => end(at(p.mov(R2, R10), R3, -8).call(HELPER.get_func_arg)),
    because: 'R2 type=fp expected=scalar',
  },
  {
    name: 'at entry there is no return value to ask for',
    accept: p => end(at(p.mov(R2, 0), R3, -8).call(HELPER.get_func_arg)),
    refuse: p => end(at(p, R2, -8).call(HELPER.get_func_ret)),
    because: 'cannot use helper bpf_get_func_ret#184: it is fentry',
  },
  {
    name: 'the return value is put into eight bytes',
    accept: p => end(p.ldMapValue(R2, MAPS.global, 56).call(HELPER.get_func_ret)),
    refuse: p => end(p.ldMapValue(R2, MAPS.global, 60).call(HELPER.get_func_ret)),
    because: 'value_size=64 off=60 size=8',
    attach: 'fexit',
  },
  {
    name: 'a result is overridden with a number',
    accept: p => end(p.mov(R2, -1).call(HELPER.override_return)),
    refuse: p => end(p.mov(R2, R10).call(HELPER.override_return)),
    because: 'R2 type=fp expected=scalar',
    attach: 'fmod_ret',
  },
  {
    name: 'only modify-return programs override',
    accept: p => end(at(p, R2, -8).call(HELPER.get_func_ret)),
    refuse: p => end(p.mov(R2, 0).call(HELPER.override_return)),
    because: 'cannot use helper bpf_override_return#58: it is fexit',
    attach: 'fexit',
  },
  {
    name: 'get_stackid is for maps of stacks',
    accept: p => end(p.ldMap(R2, MAPS.stacks).mov(R3, 0).call(HELPER.get_stackid)),
    refuse: p => end(p.ldMap(R2, MAPS.counts).mov(R3, 0).call(HELPER.get_stackid)),
    because: 'cannot pass map_type 2 into func bpf_get_stackid#27',
  },
  {
    name: 'get_stack stays inside its memory',
    accept: p => end(p.ldMapValue(R2, MAPS.global).mov(R3, 64).mov(R4, 256).call(HELPER.get_stack)),
    refuse: p => end(p.ldMapValue(R2, MAPS.global).mov(R3, 72).mov(R4, 256).call(HELPER.get_stack)),
    because: 'value_size=64 off=0 size=72',
  },
  {
    name: 'flags of get_stack are a number',
    accept: p => end(p.ldMapValue(R2, MAPS.global).mov(R3, 64).mov(R4, 0).call(HELPER.get_stack)),
    refuse: p => end(p.ldMapValue(R2, MAPS.global).mov(R3, 64).mov(R4, R1).call(HELPER.get_stack)),
    because: 'R4 type=ctx expected=scalar',
  },
  {
    name: 'perf_event_output is for perf event arrays',
    accept: p =>
      end(
        at(p.ldMap(R2, MORE.perf).mov(R3, 0).store(8, R10, -8, 0), R4, -8)
          .mov(R5, 8)
          .call(HELPER.perf_event_output),
      ),
    refuse: p =>
      end(
        at(p.ldMap(R2, MAPS.events).mov(R3, 0).store(8, R10, -8, 0), R4, -8)
          .mov(R5, 8)
          .call(HELPER.perf_event_output),
      ),
    because: 'cannot pass map_type 27 into func bpf_perf_event_output#25',
  },
  {
    name: 'perf_event_output gives no address away',
    accept: p =>
      end(
        at(p.ldMap(R2, MORE.perf).mov(R3, 0).store(8, R10, -8, 0), R4, -8)
          .mov(R5, 8)
          .call(HELPER.perf_event_output),
      ),
    refuse: p =>
      end(
        at(p.ldMap(R2, MORE.perf).mov(R3, 0).store(8, R10, -8, R1), R4, -8)
          .mov(R5, 8)
          .call(HELPER.perf_event_output),
      ),
    because: 'R4 leaks addr into map: a pointer is spilled',
  },
  {
    name: 'a tail call goes through an array of programs',
    accept: p => end(p.ldMap(R2, MAPS.programs).mov(R3, 1).call(HELPER.tail_call)),
    refuse: p => end(p.ldMap(R2, MAPS.counts).mov(R3, 1).call(HELPER.tail_call)),
    because: 'cannot pass map_type 2 into func bpf_tail_call#12',
  },
  {
    name: 'a tail call is handed the context',
    accept: p => end(p.ldMap(R2, MAPS.programs).mov(R3, 1).call(HELPER.tail_call)),
    refuse: p => end(p.mov(R1, R10).ldMap(R2, MAPS.programs).mov(R3, 1).call(HELPER.tail_call)),
    because: 'R1 type=fp expected=ctx',
  },
  {
    name: 'the index of a tail call is a number',
    accept: p => end(p.load(8, R3, R1).ldMap(R2, MAPS.programs).call(HELPER.tail_call)),
    refuse: p => end(p.mov(R3, R1).ldMap(R2, MAPS.programs).call(HELPER.tail_call)),
    because: 'R3 type=ctx expected=scalar',
  },
];

const TEXTS: readonly Rule[] = [
  {
    name: 'a format has at least one byte',
    accept: p => end(p.ldMapValue(R1, MAPS.rodata, 17).mov(R2, 5).call(HELPER.trace_printk)),
    refuse: p => end(p.ldMapValue(R1, MAPS.rodata, 17).mov(R2, 0).call(HELPER.trace_printk)),
    because: 'R2 invalid zero-sized read',
  },
  {
    name: 'a format that is not known may ask for all arguments',
    accept: p =>
      end(
        at(p.store(8, R10, -8, 0), R1, -8)
          .mov(R2, 8)
          .mov(R3, 0)
          .mov(R4, 0)
          .mov(R5, 0)
          .call(HELPER.trace_printk),
      ),
    refuse: p =>
      end(
        at(p.store(8, R10, -8, 0), R1, -8)
          .mov(R2, 8)
          .mov(R3, 0)
          .mov(R4, 0)
          .call(HELPER.trace_printk),
      ),
    because: 'R5 !read_ok',
  },
  {
    name: 'trace_vprintk has as many arguments as its format',
    accept: p =>
      end(
        at(p.store(8, R10, -8, 1).ldMapValue(R1, MAPS.rodata).mov(R2, 9), R3, -8)
          .mov(R4, 8)
          .call(HELPER.trace_vprintk),
      ),
    refuse: p =>
      end(p.ldMapValue(R1, MAPS.rodata).mov(R2, 9).mov(R3, 0).mov(R4, 0).call(HELPER.trace_vprintk)),
    because: 'the format has 1 conversions and 0 arguments',
  },
  {
    name: 'snprintf has as many arguments as its format',
    accept: p => end(printed(p, 8)),
    refuse: p => end(printed(p, 0)),
    because: 'the format has 1 conversions and 0 arguments',
  },
  {
    name: 'no arguments are no bytes',
    accept: p =>
      end(
        at(p, R1, -64)
          .mov(R2, 32)
          .ldMapValue(R3, MAPS.rodata, 17)
          .mov(R4, 0)
          .mov(R5, 0)
          .call(HELPER.snprintf),
      ),
    refuse: p =>
      end(
        at(p, R1, -64)
          .mov(R2, 32)
          .ldMapValue(R3, MAPS.rodata, 17)
          .mov(R4, 0)
          .mov(R5, 8)
          .call(HELPER.snprintf),
      ),
    because: 'R4 is null, and R5 says that 8 bytes are there',
  },
  {
    name: 'a format of snprintf is a constant',
    accept: p =>
      end(
        p.mov(R1, 0).mov(R2, 0).ldMapValue(R3, MAPS.rodata, 17).mov(R4, 0).mov(R5, 0).call(HELPER.snprintf),
      ),
    refuse: p =>
      end(
        at(p.store(8, R10, -8, 0).mov(R1, 0).mov(R2, 0), R3, -8)
          .mov(R4, 0)
          .mov(R5, 0)
          .call(HELPER.snprintf),
      ),
    because: 'R3 type=fp expected=map_value',
  },
  {
    name: 'strncmp compares at least one byte',
    accept: p => end(at(p, R1, -8).mov(R2, 1).ldMapValue(R3, MAPS.rodata, 17).call(HELPER.strncmp)),
    refuse: p => end(at(p, R1, -8).mov(R2, 0).ldMapValue(R3, MAPS.rodata, 17).call(HELPER.strncmp)),
    because: 'R2 invalid zero-sized read',
  },
  {
    name: 'the place of a constant string is known',
    accept: p => end(at(p, R1, -8).mov(R2, 8).ldMapValue(R3, MAPS.rodata, 17).call(HELPER.strncmp)),
    refuse: p =>
      end(
        at(p.load(8, R4, R1).and(R4, 1), R1, -8)
          .mov(R2, 8)
          .ldMapValue(R3, MAPS.rodata, 17)
          .add(R3, R4)
          .call(HELPER.strncmp),
      ),
    because: 'R3 is not a constant address',
  },
  {
    name: 'the result of strtol is aligned',
    accept: p => end(parsed(p, HELPER.strtol, -16)),
    refuse: p => end(parsed(p, HELPER.strtol, -20)),
    because: 'misaligned stack access off -20 size 8',
  },
  {
    name: 'strtol reads a string of some length',
    accept: p => end(parsed(p, HELPER.strtol, -16, 1)),
    refuse: p => end(parsed(p, HELPER.strtol, -16, 0)),
    because: 'R2 invalid zero-sized read',
  },
  {
    name: 'strtoul reads no further than the string',
    accept: p => end(parsed(p, HELPER.strtoul, -16, 8)),
    refuse: p => end(parsed(p, HELPER.strtoul, -16, 9)),
    because: 'invalid read from stack R1 off=-8 size=9',
  },
  {
    name: 'the result of strtoul is not put into constants',
    accept: p => end(at(p, R1, -8).mov(R2, 8).mov(R3, 0).ldMapValue(R4, MAPS.global).call(HELPER.strtoul)),
    refuse: p => end(at(p, R1, -8).mov(R2, 8).mov(R3, 0).ldMapValue(R4, MAPS.rodata).call(HELPER.strtoul)),
    because: 'write into map forbidden',
  },
];

/** Helpers without arguments give numbers of which nothing is known but what the table says. */
const RESULTS: readonly Rule[] = [
  {
    name: 'get_smp_processor_id is one of 128',
    accept: p =>
      end(p.call(HELPER.get_smp_processor_id).ldMapValue(R1, MORE.threads).add(R1, R0).load(1, R2, R1)),
    refuse: p =>
      end(p.call(HELPER.get_smp_processor_id).ldMapValue(R1, MORE.threads, 1).add(R1, R0).load(1, R2, R1)),
    because: 'value_size=128 off=128 size=1',
  },
  {
    name: 'ktime_get_ns is any number',
    accept: p =>
      end(p.call(HELPER.ktime_get_ns).and(R0, 63).ldMapValue(R1, MAPS.global).add(R1, R0).load(1, R2, R1)),
    refuse: p => end(p.call(HELPER.ktime_get_ns).ldMapValue(R1, MAPS.global).add(R1, R0).load(1, R2, R1)),
    because: 'register with unbounded min value is not allowed',
  },
  {
    name: 'get_current_pid_tgid is no pointer',
    accept: p => end(p.call(HELPER.get_current_pid_tgid).rsh(R0, 32)),
    refuse: p => end(p.call(HELPER.get_current_pid_tgid).load(8, R2, R0)),
    because: "R0 invalid mem access 'scalar'",
  },
  {
    name: 'get_prandom_u32 is cut before it is an index',
    accept: p =>
      end(p.call(HELPER.get_prandom_u32).mod(R0, 64).ldMapValue(R1, MAPS.global).add(R1, R0).load(1, R2, R1)),
    refuse: p =>
      end(p.call(HELPER.get_prandom_u32).mod(R0, 65).ldMapValue(R1, MAPS.global).add(R1, R0).load(1, R2, R1)),
    because: 'value_size=64 off=64 size=1',
  },
];

testPairs('memory that helpers fill', MEMORY);
testPairs('helpers of the context', CONTEXT);
testPairs('helpers of texts', TEXTS);
testPairs('results of helpers', RESULTS);
