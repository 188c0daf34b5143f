/**
 * `multitrace isa`: runs one program, given as hexadecimal bytes on standard input, in this process, with r1 = a piece
 * of memory and r2 = its length, and prints r0 in hexadecimal: a plugin of the public bpf_conformance suite.
 */

import { decodeProgram } from '../bpf/encoding.js';
import { type BpfInsn, CALL_FRAMES, STACK_SIZE } from '../bpf/instruction.js';
import { interpret } from '../bpf/interpreter.js';
import { memoryOf } from '../bpf/memory.js';
import { addressOf, callCode, ftruncate, MAP, memfdCreate, mmap, PROT, viewMemory } from '../ffi/libc.js';
import { BpfError } from '../kernel/errno.js';
import { compileProgram, type JitCode } from '../kernel/process/jit/compile.js';
import { verifyProgram } from '../kernel/process/verifier/verifier.js';
import { print } from './output.js';

export interface IsaOptions {
  /** through the interpreter, unverified: it checks every access instead */
  readonly interpret?: boolean;
}

/** Instructions that an interpreted program may take. */
const LONGEST_RUN = 100_000_000;
const PAGE = 4096;

/** Runs the command; the exit status. Throws `BpfError` EINVAL for what is no program, or not a safe one. */
export async function isa(memoryHex: string | undefined, options: IsaOptions): Promise<number> {
  const result = runProgram(await readStandardInput(), memoryHex ?? '', options);
  print(`${result.toString(16)}\n`);
  return 0;
}

/** r0 of a program, run on the memory; both in hexadecimal. Throws as `isa` does. */
export function runProgram(programHex: string, memoryHex: string, options: IsaOptions): bigint {
  const memory = bytesOf(memoryHex, 'the memory');
  const insns = decodeProgram(bytesOf(programHex, 'the program'));
  if (insns.length === 0) throw new BpfError('EINVAL', 'there is no program on standard input');
  return options.interpret ? runInterpreted(insns, memory) : runCompiled(insns, memory);
}

async function readStandardInput(): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('latin1');
}

/** Bytes from their hexadecimal digits, two each, with any white space between. */
function bytesOf(text: string, what: string): Uint8Array {
  const digits = text.replace(/\s+/g, '');
  if (digits.length % 2 !== 0 || !/^[0-9a-f]*$/i.test(digits)) {
    throw new BpfError('EINVAL', `${what} must be hexadecimal bytes, two digits each`);
  }
  return Uint8Array.from(Buffer.from(digits, 'hex'));
}

/** Where the interpreter's program sees its memory and the end of its stack. */
const MEMORY_ADDRESS = 0x1000_0000_0000n;
const STACK_ADDRESS = 0x2000_0000_0000n;

function runInterpreted(insns: readonly BpfInsn[], bytes: Uint8Array): bigint {
  const stack = new Uint8Array(CALL_FRAMES * STACK_SIZE);
  const regions = [
    { address: MEMORY_ADDRESS, bytes },
    { address: STACK_ADDRESS - BigInt(stack.length), bytes: stack },
  ];
  try {
    return interpret(insns, {
      memory: memoryOf(regions),
      context: bytes.length === 0 ? 0n : MEMORY_ADDRESS,
      length: BigInt(bytes.length),
      framePointer: STACK_ADDRESS,
      limit: LONGEST_RUN,
    });
  } catch (error) {
    if (error instanceof RangeError) throw new BpfError('EFAULT', error.message);
    throw error;
  }
}

function runCompiled(insns: readonly BpfInsn[], bytes: Uint8Array): bigint {
  const program = verifyProgram(insns, {
    maps: new Map(),
    context: { kind: 'memory', size: bytes.length },
  });
  const code = compileProgram(program, {
    maps: new Map(),
    routine(name) {
      throw new BpfError('EOPNOTSUPP', `${name} needs a traced process, and there is none here`);
    },
  });
  // A copy of at least a byte, so that it has an address; koffi keeps it where it is during the call.
  const memory = new Uint8Array(Math.max(bytes.length, 1));
  memory.set(bytes);
  const address = bytes.length === 0 ? 0n : addressOf(memory);
  return callCode(place(code), address, BigInt(bytes.length));
}

/** Places code in this process, writable at one address and executable at another; the latter. */
function place(code: JitCode): bigint {
  const size = Math.ceil(code.size / PAGE) * PAGE;
  const fd = memfdCreate('multitrace-isa');
  ftruncate(fd, size);
  const writable = mmap(0n, size, PROT.READ | PROT.WRITE, MAP.SHARED, fd, 0);
  const executable = mmap(0n, size, PROT.READ | PROT.EXEC, MAP.SHARED, fd, 0);
  new Uint8Array(viewMemory(writable, size)).set(code.place(executable));
  return executable;
}
