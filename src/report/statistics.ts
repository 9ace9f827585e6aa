/** The statistics of small samples: intervals of proportions, the paired test, and summaries. */

/** The 97.5 % quantile of the normal distribution. */
const z95 = 1.959963984540054;

export interface Interval {
  readonly low: number;
  readonly high: number;
}

/**
 * Wilson's 95 % interval of a proportion: `k` successes of `n`. It stays within [0, 1] and means something for
 * small n and for k = 0 or n, where the normal interval does not.
 */
export function wilson(k: number, n: number, z = z95): Interval {
  checkCount(k, n);
  return wilsonShare(k / n, n, z);
}

/** The same from the share itself, which is no multiple of 1/n where each of n images counts as a fraction. */
export function wilsonShare(p: number, n: number, z = z95): Interval {
  if (!(p >= 0 && p <= 1 && n > 0)) throw new RangeError(`proportion: ${p} of ${n} is not one`);
  const centre = (p + z ** 2 / (2 * n)) / (1 + z ** 2 / n);
  const half = (z / (1 + z ** 2 / n)) * Math.sqrt((p * (1 - p)) / n + z ** 2 / (4 * n ** 2));
  return { low: p === 0 ? 0 : centre - half, high: p === 1 ? 1 : centre + half };
}

/** "87.5 % [64.0, 96.5]": the proportion and its Wilson interval, in percent. */
export function formatProportion(k: number, n: number): string {
  const { low, high } = wilson(k, n);
  const percent = (p: number) => (100 * p).toFixed(1);
  return `${percent(k / n)} % [${percent(low)}, ${percent(high)}]`;
}

export interface PairedTest {
  /** Pairs of which only the first, or only the second, is right. */
  readonly onlyFirst: number;
  readonly onlySecond: number;
  /** Two-sided probability of so uneven a split, were both equally good. */
  readonly p: number;
}

/**
 * McNemar's exact test: do two methods differ, judged on the same images? Only the images on which they disagree
 * tell; under the null hypothesis each of them is a fair coin.
 */
export function mcnemar(first: readonly boolean[], second: readonly boolean[]): PairedTest {
  if (first.length !== second.length)
    throw new RangeError(`mcnemar: ${first.length} and ${second.length} results are not pairs`);
  const onlyFirst = first.filter((right, i) => right && !second[i]).length;
  const onlySecond = second.filter((right, i) => right && !first[i]).length;
  return { onlyFirst, onlySecond, p: mcnemarExact(onlyFirst, onlySecond) };
}

/** The p-value from the two counts of disagreement. */
export function mcnemarExact(onlyFirst: number, onlySecond: number): number {
  const n = onlyFirst + onlySecond;
  const k = Math.min(onlyFirst, onlySecond);
  // In logarithms: 2^-n is zero from n = 1075 on.
  let logTerm = -n * Math.LN2;
  let tail = Math.exp(logTerm);
  for (let i = 1; i <= k; i++) {
    logTerm += Math.log((n - i + 1) / i);
    tail += Math.exp(logTerm);
  }
  return Math.min(1, 2 * tail);
}

/** NaN for no values. */
export function mean(values: ArrayLike<number>): number {
  return sum(values, (value) => value) / values.length;
}

/** Standard deviation with the divisor n - 1; NaN for fewer than two values. */
export function std(values: ArrayLike<number>): number {
  if (values.length < 2) return Number.NaN;
  const centre = mean(values);
  return Math.sqrt(sum(values, (value) => (value - centre) ** 2) / (values.length - 1));
}

/** NaN for no values. */
export function median(values: ArrayLike<number>): number {
  return quantile(values, 0.5);
}

/** Linear between the sorted values, as NumPy's default. @param q in [0, 1] */
export function quantile(values: ArrayLike<number>, q: number): number {
  if (!(q >= 0 && q <= 1)) throw new RangeError(`quantile: ${q} is not in [0, 1]`);
  if (values.length === 0) return Number.NaN;
  const sorted = Float64Array.from(values).sort();
  const at = q * (sorted.length - 1);
  const low = sorted[Math.floor(at)] as number;
  return low + (at % 1) * ((sorted[Math.ceil(at)] as number) - low);
}

function sum(values: ArrayLike<number>, f: (value: number) => number): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += f(values[i] as number);
  return total;
}

function checkCount(k: number, n: number): void {
  if (!(Number.isInteger(k) && Number.isInteger(n) && n > 0 && k >= 0 && k <= n)) {
    throw new RangeError(`proportion: ${k} of ${n} is not one`);
  }
}
