/** Binary search over ranges that are sorted by their start. */

/** Index of the last element whose start is at or before `address`; -1 when all start behind it. */
export function lastStartingAtOrBefore<T, Address extends number | bigint>(
  sorted: readonly T[],
  address: Address,
  startOf: (element: T) => Address,
): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (startOf(sorted[middle]) <= address) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
