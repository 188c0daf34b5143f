/** Random numbers that a failure can be repeated with: the seed is printed, and MULTITRACE_SEED sets it. */

/** Numbers in [0, 1) from a 32-bit seed (xorshift32). */
export function randomNumbers(what: string): () => number {
  const seed = Number(process.env.MULTITRACE_SEED ?? Math.floor(Math.random() * 0xffff_fffe) + 1) >>> 0 || 1;
  console.log(`${what}: MULTITRACE_SEED=${seed}`);
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
