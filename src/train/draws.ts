/** Random numbers of the host's part of training: functions of (seed, purpose, step, row), so that no state has to be saved. */
import { type Block, keyOf, normalsOf, philox4x32, uniformOf } from '../engine/philox.ts';
import { purposes } from '../engine/random.ts';

export interface Counter {
  readonly seed: number;
  readonly purpose: number;
  readonly step: number;
  readonly row: number;
}

function* words(counter: Counter): Generator<Block> {
  const { seed, purpose, step, row } = counter;
  for (let quad = 0; ; quad++) yield philox4x32([quad, row, purpose, step], keyOf(seed));
}

/** Endless numbers in [0, 1). */
export function* uniforms(counter: Counter): Generator<number, never> {
  for (const block of words(counter)) for (const word of block) yield uniformOf(word);
  throw new Error('unreachable');
}

/** Endless standard normal numbers. */
export function* normals(counter: Counter): Generator<number, never> {
  for (const [a, b, c, d] of words(counter)) {
    yield* normalsOf(a, b);
    yield* normalsOf(c, d);
  }
  throw new Error('unreachable');
}

/** 0..n−1 in the random order of an epoch (Fisher and Yates). */
export function permutation(seed: number, epoch: number, n: number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  const blocks = words({ seed, purpose: purposes.shuffle, step: epoch, row: 0 });
  let block: number[] = [];
  for (let i = n - 1; i > 0; i--) {
    if (block.length === 0) block = [...(blocks.next().value as Block)];
    // The product of a 32-bit word and n < 2^21 is exact in a double.
    const j = Math.floor(((block.pop() as number) / 2 ** 32) * (i + 1));
    const kept = order[i] as number;
    order[i] = order[j] as number;
    order[j] = kept;
  }
  return order;
}

/** A number of Beta(alpha, alpha), by rejection (Jöhnk 1964). */
export function beta(alpha: number, draw: Iterator<number>): number {
  for (;;) {
    const x = (draw.next().value as number) ** (1 / alpha);
    const y = (draw.next().value as number) ** (1 / alpha);
    if (x + y > 0 && x + y <= 1) return x / (x + y);
  }
}
