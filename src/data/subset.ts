/** Which images of a data set: a range, a list, or the paper's random subset. */
import { InputError } from '../engine/errors.ts';

export interface Choice {
  /** How many images; default all from `offset` on. */
  readonly count?: number;
  /** The first image; default 0. */
  readonly offset?: number;
  /** These images, in this order, instead of a range. */
  readonly indices?: ArrayLike<number>;
}

/** `count` of `length` images, evenly from all over them. */
export const spread = (count: number, length: number): number[] =>
  Array.from({ length: count }, (_, i) => Math.floor((i * length) / count));

/**
 * The numbers of the chosen images.
 * @param what the data set, in errors
 * @param holder "the test split", which holds `n` images
 * @throws InputError when one of them is not there
 */
export function chooseImages(
  what: string,
  holder: string,
  n: number,
  { count, offset, indices }: Choice,
): number[] {
  if (indices !== undefined) {
    if (count !== undefined || offset !== undefined)
      throw new InputError(`${what}: indices and count or offset exclude each other; give one`);
    const chosen = Array.from(indices);
    if (chosen.length === 0) throw new InputError(`${what}: indices is empty; give at least one`);
    const wrong = chosen.find((index) => !Number.isInteger(index) || index < 0 || index >= n);
    if (wrong !== undefined)
      throw new InputError(`${what}: image ${wrong} is not there; ${holder} holds ${n}, 0 to ${n - 1}`);
    return chosen;
  }
  const first = offset ?? 0;
  const wanted = count ?? n - first;
  if (
    !Number.isInteger(first) ||
    !Number.isInteger(wanted) ||
    first < 0 ||
    wanted < 1 ||
    first + wanted > n
  ) {
    throw new InputError(
      `${what}: ${wanted} images from ${first} on are not there; ${holder} holds ${n}, 0 to ${n - 1}`,
    );
  }
  return Array.from({ length: wanted }, (_, i) => first + i);
}

/**
 * The images that the paper evaluates, of a test set of n: bit for bit NumPy's
 * `RandomState(seed).choice(n, count, replace=False)`, which is the front of a shuffled 0..n-1.
 * @param n 10000 for CIFAR-10, 5000 for ImageNet-100
 * @param count of 1..n; the paper takes 500
 * @param seed of 0..2^32 - 1
 * @throws InputError
 */
export function paperSubset(n: number, count = 500, seed = 0): Uint32Array {
  if (!Number.isInteger(n) || n < 1 || n > 2 ** 31)
    throw new InputError(`subset: n must be an integer of 1 to 2^31, got ${n}`);
  if (!Number.isInteger(count) || count < 1 || count > n)
    throw new InputError(`subset: count must be an integer of 1 to n = ${n}, got ${count}`);
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32)
    throw new InputError(`subset: seed must be an integer of 0 to 4294967295, got ${seed}`);
  const next = mersenneTwister(seed);
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  // Fisher and Yates from the back. A number beyond i, under the smallest mask of ones that covers i, is drawn anew.
  for (let i = n - 1; i > 0; i--) {
    const mask = 0xffffffff >>> Math.clz32(i);
    let j = (next() & mask) >>> 0;
    while (j > i) j = (next() & mask) >>> 0;
    const kept = order[i] as number;
    order[i] = order[j] as number;
    order[j] = kept;
  }
  return order.slice(0, count);
}

/** MT19937 (Matsumoto and Nishimura 1998), seeded with one 32-bit number: uint32 after uint32. */
function mersenneTwister(seed: number): () => number {
  const [length, middle] = [624, 397];
  const state = new Uint32Array(length);
  state[0] = seed;
  for (let i = 1; i < length; i++) {
    const last = state[i - 1] as number;
    state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i;
  }
  let at = length;
  const twist = () => {
    for (let i = 0; i < length; i++) {
      const joined = ((state[i] as number) & 0x80000000) | ((state[(i + 1) % length] as number) & 0x7fffffff);
      const far = state[(i + middle) % length] as number;
      state[i] = far ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    }
    at = 0;
  };
  return () => {
    if (at === length) twist();
    let y = state[at++] as number;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}
