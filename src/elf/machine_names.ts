/** What e_machine numbers (gABI, "e_machine") are called, to tell a user what kind of program a file is. */

const NAMES: Record<number, string> = {
  2: 'SPARC',
  3: 'x86',
  4: 'Motorola 68000',
  8: 'MIPS',
  15: 'PA-RISC',
  20: 'PowerPC',
  21: 'PowerPC',
  22: 'IBM Z',
  40: 'ARM',
  42: 'SuperH',
  43: 'SPARC',
  50: 'Itanium',
  62: 'x86-64',
  94: 'Xtensa',
  183: 'ARM',
  189: 'MicroBlaze',
  243: 'RISC-V',
  247: 'BPF',
  252: 'C-SKY',
  258: 'LoongArch',
  36902: 'Alpha',
};

/** The name of a processor, without its bits or byte order. */
export function machineName(machine: number): string {
  return NAMES[machine] ?? `unknown (processor number ${machine})`;
}
