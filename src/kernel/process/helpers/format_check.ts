/**
 * The rules of format strings of trace_printk, trace_vprintk and snprintf, which are the kernel's
 * (bpf_bprintf_prepare): for the verifier, where a format is constant. Printing is format_code.ts.
 *
 *     %[0 +-]*[width](d|i|u|x|X), also behind l and ll
 *     %[0 +-]*[width](c|s)
 *     %[0 +-]*[width]p, followed by x, K, s, S, B, ks, us, i4, I4, i6, I6 or nothing
 *     %%
 */

/** The most arguments that trace_printk, and that trace_vprintk and snprintf print. */
export const TRACE_PRINTK_ARGS = 3;
export const VPRINTK_ARGS = 12;

/** One conversion of a format. */
interface Conversion {
  /** Conversion letters, without flags, width and length: `d`, `s`, `pI4`, … */
  readonly letters: string;
}

const isAlphanumeric = (c: string | undefined): boolean => c !== undefined && /^[A-Za-z0-9]$/.test(c);

/** Takes a format apart: its conversions, or the sentence that refuses it. */
function readFormat(text: string): readonly Conversion[] | string {
  const conversions: Conversion[] = [];
  for (let i = 0; i < text.length; i++) {
    const c = text[i]!;
    if (!/^[\x20-\x7e\t-\r]$/.test(c))
      return `the format has the byte 0x${c.charCodeAt(0).toString(16)} at ${i}; use printable ASCII only`;
    if (c !== '%') continue;
    if (text[i + 1] === '%') {
      i++;
      continue;
    }
    const [conversion = ''] = /^%[0 +-]*(?:[1-9][0-9]*)?/.exec(text.slice(i))!;
    const at = i + conversion.length;
    const rest = text.slice(at);
    const [letters] = /^(?:ll?)?[diuxX]|^c|^p(?:[ku]s|[iI][46]|[xKsSB])?|^s/.exec(rest) ?? [''];
    const what = text.slice(i, at + Math.max(letters.length, 1));
    if (letters === '')
      return `the conversion '${what}' at ${i} of the format is not one that BPF programs have`;
    const next = rest[letters.length];
    if ((letters === 's' || letters === 'p' || /^p[ku]s$/.test(letters)) && isAlphanumeric(next))
      return `the conversion '${what}' at ${i} of the format is followed by '${next}'; put a space or a sign between`;
    conversions.push({ letters: letters.replace(/^ll?/, '') });
    i = at + letters.length - 1;
  }
  return conversions;
}

/**
 * Why the kernel would answer -EINVAL to the format `text` (without its zero byte) with `nargs` arguments, as one
 * sentence; `undefined` for a good one. More arguments than conversions are no mistake.
 */
export function checkFormat(text: string, nargs: number): string | undefined {
  const conversions = readFormat(text);
  if (typeof conversions === 'string') return conversions;
  if (conversions.length > nargs)
    return `the format has ${conversions.length} conversions and ${nargs} arguments; give as many arguments`;
  return undefined;
}

/** Whether printing with it reads memory through an argument, which may fault; true for one that is not right. */
export function formatReadsMemory(text: string): boolean {
  const conversions = readFormat(text);
  return (
    typeof conversions === 'string' || conversions.some(({ letters }) => /^s|^p[ku]s|^p[iI]/.test(letters))
  );
}
