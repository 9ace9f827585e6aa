/**
 * Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11) on the host: the reference
 * of philox.wgsl, and the source of random numbers for work that stays on the host. A block is a pure function of
 * a 128-bit counter and a 64-bit key, so nothing has to be stored or advanced.
 */

/** Four words of 32 bits. */
export type Block = [number, number, number, number];

/** @param counter four words @param key two words @returns four random words, each in [0, 2^32) */
export function philox4x32(counter: Readonly<Block>, key: readonly [number, number]): Block {
  let [c0, c1, c2, c3] = counter.map((word) => word >>> 0) as Block;
  let [k0, k1] = key.map((word) => word >>> 0) as [number, number];
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0);
    const low0 = Math.imul(0xd2511f53, c0) >>> 0;
    const high1 = multiplyHigh(0xcd9e8d57, c2);
    const low1 = Math.imul(0xcd9e8d57, c2) >>> 0;
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** Upper 32 bits of a product of two 32-bit words, from 16-bit halves. */
function multiplyHigh(a: number, b: number): number {
  const [a0, a1, b0, b1] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const cross = a0 * b1 + (middle & 0xffff);
  return a1 * b1 + (middle >>> 16) + (cross >>> 16);
}

/** The two words of a seed in [0, 2^53). */
export function keyOf(seed: number): [number, number] {
  return [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0];
}

/** 24 bits, in [0, 1); exact in f32. */
export function uniformOf(word: number): number {
  return (word >>> 8) / 2 ** 24;
}

/**
 * Two independent standard normal numbers from two words (Box and Muller 1958). The first word gives the radius
 * with all its 32 bits, which reach 6.76 standard deviations; zero cannot occur under the logarithm.
 */
export function normalsOf(a: number, b: number): [number, number] {
  const u = Math.fround((a >>> 8) / 2 ** 24 + ((a & 255) + 0.5) / 2 ** 32);
  const radius = Math.sqrt(-2 * Math.log(u));
  const angle = 2 * Math.PI * uniformOf(b);
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}
