/** What to do about each of the verifier's sentences, by how it reads and what the registers held. */

interface Advice {
  readonly sentence: RegExp;
  /** What the registers must hold for it. */
  readonly held?: RegExp;
  /** Left out where the sentence says it itself. */
  readonly advice?: string;
}

/** The first that fits is given. */
const ADVICE: readonly Advice[] = [
  // The sentence says it.
  { sentence: /cannot use helper \S+#\d+: (?!it is )/ },
  // Pointers that may be null.
  {
    sentence: /./,
    held: /map_(value|ptr)_or_null/,
    advice:
      'The key may not be there: test the result of the look-up (if (!value) return 0;) before it is used.',
  },
  {
    sentence: /./,
    held: /mem_or_null/,
    advice: 'There may be no room: test the result (if (!record) return 0;) before it is used.',
  },
  {
    sentence: /pointer arithmetic on \w+_or_null prohibited|null-check it first/,
    advice: 'Test the pointer against NULL first, then calculate with it.',
  },
  // Numbers used as pointers.
  {
    sentence: /invalid mem access 'scalar'/,
    advice:
      "It is a number to the verifier, not a pointer. Memory of the traced process is read with bpf_probe_read_user(); an argument is a pointer where the target's types are known (--file, --module, --target).",
  },
  {
    sentence: /invalid mem access 'ctx'|cannot write into ctx|ctx.*invalid variable offset/,
    advice:
      'Read arguments with BPF_PROG() or bpf_get_func_arg(); the context itself is neither written nor indexed.',
  },
  {
    sentence: /invalid mem access '(fp|func)'/,
    advice: 'Only memory can be read or written: keep the address of a function for bpf_loop() and its like.',
  },
  {
    sentence: /invalid mem access|pointer to pointer|invalid mem/,
    advice:
      'What the register holds is no memory that a program may use; see what it held, and where it came from.',
  },
  {
    sentence: /given back$/,
    advice: 'Use it before it is submitted or discarded; afterwards nothing that pointed to it is of use.',
  },
  {
    sentence: /!read_ok/,
    advice:
      'It is read before anything was written to it on this path: give the variable a value on every path. Calls take away what r1 to r5 held.',
  },
  // Bounds.
  {
    sentence: /invalid access to map value pointer|direct value access/,
    advice: 'Global data is in arrays of one entry; keep the offset inside the section.',
  },
  {
    sentence:
      /invalid variable-offset|invalid access to (map[ _]value|map[ _]key|memory|mem)|invalid access to .*off=|unbounded memory access|min value is negative|be out of bounds|outside of the allowed memory/,
    advice:
      'The verifier does not see that it stays inside. Bound the index or size before its use, in the same variable: if (i >= N) return 0; or i &= N - 1; and make it unsigned.',
  },
  {
    sentence: /size \d+ is too large/,
    advice: 'Bound the size by what the memory has room for before the call.',
  },
  {
    sentence: /math between|value -?\d+ makes/,
    advice: 'Bound the number from below and from above before it is added to the pointer.',
  },
  {
    sentence: /invalid zero-sized read|zero-sized/,
    advice: 'The size may be 0, which this call does not take: test for it before.',
  },
  // Stack.
  {
    sentence: /from stack.*: a \w+ is there/,
    advice: 'An iterator or a dynptr is used by its own functions only, and never copied.',
  },
  {
    sentence: /misaligned stack/,
    advice:
      'Numbers on the stack are aligned to their size: leave out __attribute__((packed)), or copy byte by byte.',
  },
  {
    sentence: /invalid (read|write|.*) (from|to) stack|stack R\d/,
    advice:
      'It reaches over the end of the stack, or of what it has (512 bytes): make the variable as large as what is read into it, or put it into a per-CPU array of one entry.',
  },
  {
    sentence: /combined stack size|too deep/,
    advice:
      'All functions on the way share 512 bytes of stack and 8 calls: move large variables to a per-CPU array, or inline fewer functions.',
  },
  {
    sentence: /size of register (fill|spill)|corrupt spilled pointer|partial copy of pointer|spilled pointer/,
    advice:
      'A pointer on the stack is stored and loaded whole, as 8 bytes: copy the struct without casting it to bytes.',
  },
  // Loops.
  {
    sentence: /infinite loop/,
    advice:
      'Nothing that the loop tests changes: count to a bound (for (int i = 0; i < N; i++)), or use bpf_for(), bpf_loop() or may_goto.',
  },
  {
    sentence: /program is too large|too complex|a program has 1 to/,
    advice:
      'A million instructions were walked. Bound the loop more tightly, or use bpf_for() or bpf_loop(), whose body is walked few times; make large functions global (not static, not inline).',
  },
  // References and locks.
  {
    sentence: /Unreleased reference|reference leak/,
    advice:
      'Give it back on every path to the end: bpf_ringbuf_submit() or bpf_ringbuf_discard() for each reservation; bpf_for() does it for its iterator.',
  },
  {
    sentence: /was not reserved|unacquired reference|overwrite referenced dynptr|give back what its caller/,
    advice: 'Give back just what was reserved, once, and the pointer as it was returned.',
  },
  {
    sentence: /lock/,
    advice:
      'Take one lock (bpf_spin_lock) of a value, call nothing under it, and unlock the same one on every path.',
  },
  {
    sentence: /\biter(_num|ator)?\b/,
    advice:
      'Use bpf_for(), which makes, walks and destroys the iterator; leave it with break, not with return.',
  },
  {
    sentence: /dynptr/,
    advice: 'A dynptr lives on the stack, is made once, and is used only where it was made with success.',
  },
  // What a program may call and return.
  {
    sentence: /should have been in .* for (fentry|fexit)/,
    advice: 'fentry and fexit programs return 0: end with return 0;',
  },
  {
    sentence: /should have been in/,
    advice: 'Return 0 or 1 as a constant on every path.',
  },
  {
    sentence: /leaks addr as return value|cannot return stack pointer/,
    advice: 'Return a number, no pointer.',
  },
  {
    sentence: /leaks addr/,
    advice:
      'Addresses of maps, stack and context are not stored where others can read them: store a number or a copy of what is there.',
  },
  {
    sentence: /might sleep|sleepable/,
    advice: 'Mark the program sleepable (SEC("fentry.s/…")), or use the helper that does not sleep.',
  },
  {
    sentence: /CO-RE relocation found nothing/,
    advice:
      "The target's types do not have it, or are not known: give the file that has them (--file, --module), or ask first with bpf_core_field_exists().",
  },
  {
    sentence: /cannot use helper|invalid func unknown|kernel function .* is not allowed/,
    advice:
      'It is not there in a process, or not for this kind of program: bpf_core_enum_value_exists() and weak symbols can ask.',
  },
  {
    sentence: /write into map forbidden/,
    advice:
      'Constants (const variables) and read-only maps are set before loading: drop the const, or write another variable.',
  },
  {
    sentence: /cannot pass map_type|write two calls|map forbidden/,
    advice: 'Use a map of a type that this call is for, and one call for each map.',
  },
  {
    sentence: /invalid bpf_context access/,
    advice:
      "The context holds the traced function's arguments, 8 bytes each, and with fexit its result behind them: read just those that it has.",
  },
  {
    sentence: /does not point to a readonly map/,
    advice: 'The text must be constant: a string literal, or a const array.',
  },
  {
    sentence: /only read is supported|cannot write into/,
    advice: 'It is read only: copy it to the stack and change the copy.',
  },
  {
    sentence: /access beyond/,
    advice:
      'Read the members that the type has: a cast to another type is followed with bpf_rdonly_cast() or bpf_probe_read_user().',
  },
  {
    sentence: /pointer (arithmetic|comparison|pointer)|tried to subtract pointer|32-bit pointer/,
    advice:
      'Add bounded numbers to pointers, and compare them with NULL: nothing else. A number that only looks like a pointer is cast to long.',
  },
  {
    sentence: /type=\w+ expected=/,
    advice: 'Hand over what the helper takes: a pointer to memory of the right size, or the map itself.',
  },
  {
    sentence: /known constant|constant address|constant offset/,
    advice:
      'It must be a constant when the program is compiled: sizeof, a literal, or a const volatile that is set before loading.',
  },
  {
    sentence: /unreachable insn|last insn|jump (out of range|into)|invalid destination/,
    advice: 'The code is not what a compiler makes of C: compile it with clang -O2 -target bpf.',
  },
  {
    sentence: /Global function|Arg#\d+ type/,
    advice:
      'Global functions take numbers, the context and pointers to sized types, and return a number: make it static otherwise.',
  },
  { sentence: /recursive call/, advice: 'Write it as a loop.' },
  {
    sentence: /format has|zero-terminated/,
    advice: 'Give one argument for each conversion of a constant format.',
  },
  {
    sentence: /same insn cannot be used/,
    advice:
      'One instruction reads through two kinds of pointers, which the compiler has merged: write the reads apart, with barrier() between.',
  },
  {
    sentence: /BPF_ATOMIC stores|misaligned atomic/,
    advice: 'Atomics work on numbers of 4 and 8 bytes in map values and on the stack, aligned to their size.',
  },
  {
    sentence: /into stack frame of the caller/,
    advice:
      'Store numbers or copies where the caller gave memory; pointers stay in the function or are its result.',
  },
  {
    sentence: /needs the types of the traced module/,
    advice: 'Give the file that has them: --file, --module.',
  },
  { sentence: /div by zero/, advice: 'Divide by something that is not 0.' },
];

/** What to do, where more can be said than the sentence does. */
export function adviceFor(sentence: string, held: string): string | undefined {
  return ADVICE.find(one => one.sentence.test(sentence) && (one.held === undefined || one.held.test(held)))
    ?.advice;
}
