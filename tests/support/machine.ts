/**
 * For tests: a machine that runs a verified program in the interpreter and knows what it may touch. Helpers do what
 * their prototypes allow, at random: they check what they are handed, write what they may write and return what they
 * may return. Whatever the program does that it must not is a `RangeError`.
 */

import { HELPER } from '../../src/bpf/helpers.js';
import { type BpfInsn, CALL_FRAMES, FRAME_POINTER, PSEUDO, STACK_SIZE } from '../../src/bpf/instruction.js';
import { type Invoke, interpret } from '../../src/bpf/interpreter.js';
import { KFUNC } from '../../src/bpf/kfuncs.js';
import { isMapOfMaps } from '../../src/bpf/map_type.js';
import { BpfError } from '../../src/kernel/errno.js';
import { argumentWords, attachTypeOf, type MapSpec } from '../../src/kernel/process/verifier/environment.js';
import { type Admits, allows, type Beliefs } from '../../src/kernel/process/verifier/fixture.js';
import { isReadable, isWritable, lockOffset } from '../../src/kernel/process/verifier/map_fields.js';
import { type ArgumentType, prototypeOf } from '../../src/kernel/process/verifier/prototypes.js';
import type { VerifiedProgram } from '../../src/kernel/process/verifier/verified.js';
import { Memory, type Piece } from './machine_memory.js';

const STACK = CALL_FRAMES * STACK_SIZE;
const DYNPTR = 16;
/** Instructions of a program that ends by itself, and of one whose helper or iterator may go on for long. */
const LONGEST = 1_000_000;
const ENOUGH = 5_000;
const MAX_ERRNO = 4095;
/** Bytes after which random memory repeats itself. */
const PATTERN = 136;
/** How far beside their memory pointers are looked for. */
const FARTHEST = 1n << 29n;

type Random = (below: number) => number;

interface Dynptr {
  readonly reserved: boolean;
  /** what dynptr_data gave of it */
  readonly pieces: bigint[];
}

class Machine {
  readonly memory = new Memory();
  readonly context: bigint;
  readonly framePointer: bigint;
  private readonly program: VerifiedProgram;
  private readonly beliefs: Beliefs;
  private readonly random: Random;
  private readonly maps = new Map<bigint, MapSpec>();
  private readonly addresses = new Map<MapSpec, bigint>();
  private readonly values = new Map<MapSpec, bigint[]>();
  private readonly reserved = new Set<bigint>();
  private readonly dynptrs = new Map<bigint, Dynptr>();
  private locked: bigint | undefined;
  /** The instruction after a call, before which the argument registers hold anything. */
  private after = -1;
  private nextDynptr = 1n;

  constructor(program: VerifiedProgram, beliefs: Beliefs, random: Random) {
    this.program = program;
    this.beliefs = beliefs;
    this.random = random;
    const { memory } = this;
    const nargs = argumentWords(program.env);
    const slots = attachTypeOf(program.env) === 'fentry' ? nargs : nargs + 1;
    const context = new Uint8Array(8 * slots);
    for (let i = 0; i < slots; i++) new DataView(context.buffer).setBigUint64(8 * i, this.number(), true);
    this.context = memory.add(context, { writable: false });
    memory.context = this.context;
    memory.accessed = offset => {
      const argument = Math.floor(offset / 8);
      const told = argument < nargs ? program.accessedArgs.includes(argument) : program.readsReturnValue;
      if (!told) throw new RangeError(`reads argument ${argument}, and says that it does not`);
    };
    memory.stack = memory.add(this.bytes(STACK));
    this.framePointer = memory.stack + BigInt(STACK);
  }

  run(limit: number): bigint {
    const { program, memory } = this;
    const result = interpret(program.insns, {
      memory,
      context: this.context,
      framePointer: this.framePointer,
      probeLoads: program.probeLoads,
      limit,
      mayGotos: this.random(5),
      resolve: insn => this.resolve(insn),
      visit: (index, registers) => this.visit(index, registers),
      call: (id, args, invoke) => this.helper(id, args, invoke),
      callKfunc: (id, args) => this.kernelFunction(id, args),
    });
    this.checkEnd(result);
    return result;
  }

  private checkEnd(result: bigint): void {
    if (this.locked !== undefined) throw new RangeError('ends with a lock held');
    if (this.reserved.size > 0) throw new RangeError('ends without giving back what it reserved');
    if ([...this.dynptrs.values()].some(({ reserved }) => reserved))
      throw new RangeError('ends without giving back a dynptr of a ring buffer');
    const attachType = attachTypeOf(this.program.env);
    const most = attachType === 'fsession' ? 1n : 0n;
    if (attachType !== 'fmod_ret' && result > most) throw new RangeError(`returns ${result}`);
  }

  /** Numbers that comparisons and lengths are about, mostly. */
  private number(): bigint {
    const { random } = this;
    const any = (BigInt(random(2 ** 24)) << 40n) | (BigInt(random(2 ** 24)) << 16n) | BigInt(random(65536));
    switch (random(6)) {
      case 0:
        return 0n;
      case 1:
        return BigInt(random(16));
      case 2:
        return BigInt(random(1000));
      case 3:
        return BigInt.asUintN(64, -BigInt(1 + random(100)));
      case 4:
        return any >> BigInt(random(64));
      default:
        return any;
    }
  }

  private bytes(size: number): Uint8Array {
    const bytes = new Uint8Array(size);
    this.scribble(bytes);
    return bytes;
  }

  private scribble(bytes: Uint8Array): void {
    const kind = this.random(3);
    // A stack's worth of random numbers takes longer than the program: a pattern of them will do.
    const pattern = Math.min(bytes.length, PATTERN);
    for (let i = 0; i < pattern; i++)
      bytes[i] = kind === 0 ? this.random(256) : kind === 1 && this.random(4) === 0 ? this.random(8) : 0;
    for (let i = pattern; i < bytes.length; i += pattern) bytes.copyWithin(i, 0, pattern);
  }

  private resolve(insn: BpfInsn): bigint {
    if (insn.src === PSEUDO.IMM) return insn.imm64 as bigint;
    const id = Number((insn.imm64 as bigint) & 0xffff_ffffn);
    const map = this.program.env.maps.get(id);
    if (map === undefined) throw new RangeError(`names map ${id}, which is not there`);
    if (insn.src === PSEUDO.MAP_FD) return this.mapAddress(map);
    return (this.valuesOf(map)[0] as bigint) + ((insn.imm64 as bigint) >> 32n);
  }

  private mapAddress(map: MapSpec): bigint {
    const known = this.addresses.get(map);
    if (known !== undefined) return known;
    const address = this.memory.add(new Uint8Array(0));
    this.addresses.set(map, address);
    this.maps.set(address, map);
    return address;
  }

  private valuesOf(map: MapSpec): bigint[] {
    let values = this.values.get(map);
    if (values === undefined) {
      const count = Math.min(3, map.maxEntries);
      values = Array.from({ length: Math.max(1, count) }, () => {
        const bytes = map.readConstant?.(0, map.valueSize) ?? this.bytes(map.valueSize);
        const fields = { readable: isReadable(map), writable: isWritable(map), lock: lockOffset(map), map };
        return this.memory.add(bytes, fields);
      });
      this.values.set(map, values);
    }
    return values;
  }

  private visit(index: number, registers: BigUint64Array): void {
    const { program, memory } = this;
    if (program.reached[index] === 0) throw new RangeError(`runs instruction ${index}, thought never to`);
    memory.bottom = (registers[FRAME_POINTER] as bigint) - BigInt(STACK_SIZE);
    if (memory.bottom < memory.stack) throw new RangeError('calls deeper than its stack');
    if (index === this.after) for (let r = 1; r <= 5; r++) registers[r] = this.number();
    this.after = -1;
    const operation = program.operations[index];
    const insn = program.insns[index] as BpfInsn;
    if (operation?.kind === 'call') this.after = index + 1;
    else if (operation?.kind === 'atomic') {
      const address = (registers[insn.dst] as bigint) + BigInt(insn.offset);
      if (address % BigInt(operation.size) !== 0n)
        throw new RangeError(`atomic at 0x${address.toString(16)}`);
      const operand = program.atomicOperands.get(index);
      if (operand !== undefined && operand !== registers[insn.src])
        throw new RangeError(`atomic with ${registers[insn.src]}, thought to be ${operand}`);
    }
    this.beliefs.check(index, registers, this.admits);
  }

  private readonly admits: Admits = (pointer, address) => {
    const { memory } = this;
    switch (pointer.kind) {
      case 'ctx':
        return address === this.context + BigInt(pointer.offset);
      case 'map_ptr': {
        const map = this.maps.get(address);
        return address === 0n ? pointer.maybeNull : map !== undefined && map.type === pointer.map.type;
      }
      // An address of the process's own may be anything; of a function, the interpreter knows.
      case 'ptr_':
      case 'func':
        return true;
      default: {
        if (address === 0n) return pointer.maybeNull;
        // One that may be anywhere can't be used for anything, and leaves its window.
        if (pointer.variable.smax > FARTHEST) return true;
        // What an iterator gives is on the stack, and a dynptr's memory is a piece of its own.
        const piece = memory.piece(address);
        if (piece === undefined) return false;
        if (memory.piece(memory.stack) === piece || pointer.kind === 'map_key') return true;
        if (pointer.kind === 'map_value' && piece.map?.valueSize !== pointer.map?.valueSize) return false;
        const from = BigInt(memory.offset(address) - pointer.offset);
        return allows(pointer.variable, BigInt.asUintN(64, from));
      }
    }
  };

  private helper(id: number, args: readonly bigint[], invoke: Invoke): bigint {
    const prototype = prototypeOf(id);
    if (prototype === undefined) throw new RangeError(`calls helper ${id}`);
    if (this.locked !== undefined && id !== HELPER.spin_unlock)
      throw new RangeError(`calls ${id} with a lock held`);
    const { memory, random } = this;
    let map: MapSpec | undefined;
    let size = 0;
    let dynptr: Dynptr | undefined;
    const made: [address: bigint, reserved: boolean][] = [];
    const written: Uint8Array[] = [];
    prototype.args.forEach((type, i) => {
      const arg = args[i] as bigint;
      const next = BigInt.asIntN(64, args[i + 1] ?? 0n);
      const orNull = type.endsWith('OrNull');
      switch (type) {
        case 'map':
          map = this.maps.get(arg);
          if (map === undefined)
            throw new RangeError(`hands 0x${arg.toString(16)} to ${prototype.name}, no map`);
          if (prototype.maps?.includes(map.type) === false)
            throw new RangeError(`${prototype.name} of map type ${map.type}`);
          return;
        case 'key':
          memory.at(arg, (map as MapSpec).keySize, 'reads');
          return;
        case 'value':
        case 'valueOrNull':
          if (!orNull || arg !== 0n) memory.at(arg, (map as MapSpec).valueSize, 'reads', true);
          return;
        case 'uninitValue':
          written.push(memory.at(arg, (map as MapSpec).valueSize, 'writes'));
          return;
        case 'ctx':
          if (arg !== this.context) throw new RangeError(`hands on 0x${arg.toString(16)} as context`);
          return;
        case 'mem':
        case 'memOrNull':
        case 'uninitMem':
        case 'uninitMemOrNull': {
          if (next < 0n || next > 1n << 29n) throw new RangeError(`hands on a size of ${next}`);
          if (next === 0n && prototype.args[i + 1] === 'size') throw new RangeError('hands on a size of 0');
          if (next === 0n) return;
          if (arg === 0n && orNull) throw new RangeError(`hands on NULL with a size of ${next}`);
          const writes = type.startsWith('uninit');
          const bytes = memory.at(arg, Number(next), writes ? 'writes' : 'reads', true);
          if (writes) written.push(bytes);
          return;
        }
        case 'size':
        case 'sizeOrZero':
        case 'allocSize':
          size = Number(arg);
          return;
        case 'long':
          written.push(memory.at(arg, 8, 'writes'));
          return;
        case 'constString':
          for (let at = arg; memory.load(at, 1) !== 0n; at++);
          return;
        case 'lock': {
          const piece = memory.piece(arg);
          if (piece?.lock === undefined || memory.offset(arg) !== piece.lock)
            throw new RangeError('locks what is no lock');
          return;
        }
        case 'currentTask':
          if (arg !== 0n) throw new RangeError('names another task');
          return;
        case 'reserved':
          if (!this.reserved.delete(arg)) throw new RangeError('gives back what it has not');
          (memory.piece(arg) as Piece).alive = false;
          return;
        case 'dynptr':
        case 'releaseDynptr':
          dynptr = this.dynptr(arg, type === 'releaseDynptr');
          return;
        case 'uninitDynptr':
        case 'uninitRingbufDynptr':
          memory.at(arg, DYNPTR, 'writes');
          made.push([arg, type === 'uninitRingbufDynptr']);
          return;
        default:
          knownFree(type);
      }
    });
    for (const bytes of written) this.scribble(bytes);
    for (const [address, reserved] of made) this.makeDynptr(address, reserved);
    if (id === HELPER.spin_lock) this.locked = args[0];
    if (id === HELPER.spin_unlock) {
      if (this.locked !== args[0]) throw new RangeError('unlocks what it has not locked');
      this.locked = undefined;
    }
    if (id === HELPER.get_func_arg) {
      const number = Number((args[1] as bigint) & 0xffff_ffffn);
      if (number < argumentWords(this.program.env) && !this.program.accessedArgs.includes(number))
        throw new RangeError(`asks for argument ${number}, and says that it does not`);
    }
    if (id === HELPER.for_each_map_elem) return this.forEach(map as MapSpec, args, invoke);
    if (id === HELPER.get_smp_processor_id) return BigInt(random(128));
    switch (prototype.returns) {
      case 'length':
        return random(3) === 0 ? BigInt(-1 - random(MAX_ERRNO)) : BigInt(random(size + 1));
      case 'valueOrNull': {
        if (random(4) === 0) return 0n;
        const from = map as MapSpec;
        if (isMapOfMaps(from.type)) return this.mapAddress(from.innerMap as MapSpec);
        return this.valuesOf(from)[random(this.valuesOf(from).length)] as bigint;
      }
      case 'reservedOrNull': {
        if (random(4) === 0) return 0n;
        const address = memory.add(this.bytes(size));
        this.reserved.add(address);
        return address;
      }
      case 'dynptrMemoryOrNull': {
        if (random(4) === 0) return 0n;
        const address = memory.add(this.bytes(size));
        (dynptr as Dynptr | undefined)?.pieces.push(address);
        return address;
      }
      default:
        return this.number();
    }
  }

  /** A dynptr is what a helper made of 16 bytes, as long as nobody else writes them. */
  private makeDynptr(address: bigint, reserved: boolean): void {
    const id = this.nextDynptr++ | (0xd9n << 56n);
    this.memory.store(address, 8, id);
    this.memory.store(address + 8n, 8, id);
    this.dynptrs.set(id, { reserved, pieces: [] });
  }

  private dynptr(address: bigint, release: boolean): Dynptr {
    const id = this.memory.load(address, 8);
    const found = this.dynptrs.get(id);
    if (found === undefined || this.memory.load(address + 8n, 8) !== id)
      throw new RangeError('uses what is no dynptr');
    if (!release) return found;
    if (!found.reserved) throw new RangeError('gives back a dynptr of its own memory');
    for (const piece of found.pieces) (this.memory.piece(piece) as Piece).alive = false;
    this.dynptrs.delete(id);
    return found;
  }

  private forEach(map: MapSpec, args: readonly bigint[], invoke: Invoke): bigint {
    const key = this.memory.add(this.bytes(map.keySize), { writable: false });
    const times = this.random(4);
    for (let i = 0; i < times; i++) {
      const values = this.valuesOf(map);
      const value = values[this.random(values.length)] as bigint;
      const result = invoke(args[1] as bigint, [args[0] as bigint, key, value, args[2] as bigint]);
      if (result > 1n) throw new RangeError(`a callback returns ${result}`);
      if (result === 1n) return BigInt(i + 1);
    }
    return BigInt(times);
  }

  private kernelFunction(id: number, [first = 0n]: readonly bigint[]): bigint {
    switch (id) {
      case KFUNC.bpf_rdonly_cast:
        return first;
      case KFUNC.bpf_session_is_return:
        return BigInt(this.random(2));
      case KFUNC.bpf_session_frame:
        return this.number();
      case KFUNC.bpf_session_cookie:
        return this.memory.add(this.bytes(8));
      default:
        throw new RangeError(`calls kernel function ${id}`);
    }
  }
}

/** Arguments that may be anything, or that the interpreter looks at. */
function knownFree(type: ArgumentType): void {
  if (!['anything', 'address', 'func', 'callbackContext'].includes(type))
    throw new Error(`the machine does not know arguments of type ${type}`);
}

/**
 * Runs the program once. Throws `RangeError` where it does what it must not; false where it goes on for longer than
 * this is worth, by a loop that something other than the program bounds.
 */
export function runInMachine(program: VerifiedProgram, beliefs: Beliefs, random: Random): boolean {
  const bounded =
    !program.usedHelpers.some(id => id === HELPER.loop || id === HELPER.for_each_map_elem) &&
    program.usedKfuncs.length === 0 &&
    !program.operations.some(({ kind }) => kind === 'mayGoto');
  try {
    new Machine(program, beliefs, random).run(bounded ? LONGEST : ENOUGH);
  } catch (error) {
    if (!bounded && error instanceof BpfError && error.code === 'ELOOP') return false;
    throw error;
  }
  return true;
}
