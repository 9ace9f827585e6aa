/** Dropout (Srivastava et al. 2014) with masks by counter, so that two passes may drop the same. */
import { differentiable } from '../engine/autograd.ts';
import { check, InputError } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { keyOf } from '../engine/philox.ts';
import philoxSource from '../engine/philox.wgsl';
import { sizeOf, type Tensor } from '../engine/tensor.ts';
import source from './dropout.wgsl';

export interface DropoutOptions {
  /** Share of elements that become 0, in [0, 1); the others are divided by 1 − rate. */
  readonly rate: number;
  readonly seed: number;
  /** Tells layers apart, a u32. */
  readonly purpose: number;
  /** u32 [1]: each step another mask; the same (seed, purpose, step, row) the same mask. */
  readonly step: Tensor;
  /** Number of x's first row, where x is a part of a batch; 0. */
  readonly first?: number;
}

/**
 * @param x its first axis is the image
 * @throws InputError for a rate outside [0, 1), ShapeError for x or step of another type
 */
export function dropout(x: Tensor, { rate, seed, purpose, step, first = 0 }: DropoutOptions): Tensor {
  if (!(rate >= 0 && rate < 1)) throw new InputError(`dropout: rate must be in [0, 1), got ${rate}`);
  check(x.dtype === 'f32' && x.rank >= 1, () => `dropout: x [${x.shape}] ${x.dtype} is not f32 with rows`);
  check(step.dtype === 'u32' && step.size === 1, () => `dropout: step is ${step.dtype} [${step.shape}]`);
  const rows = x.shape[0] as number;
  const length = sizeOf(x.shape.slice(1));
  const blocks = Math.ceil(length / 4);
  const [low, high] = keyOf(seed);
  const params = {
    rows,
    first,
    length,
    blocks,
    purpose,
    rate,
    factor: 1 / (1 - rate),
    seed_low: low,
    seed_high: high,
  };
  const k = kernel('dropout', `${philoxSource}\n${source}`);
  const apply = (from: Tensor) => {
    const to = from.device.empty(from.shape);
    from.device.run(k, { x: from, step, y: to }, params, linearGrid(rows * blocks));
    return to;
  };
  // dx = dy keep/(1 − rate): the same function of dy.
  return differentiable('dropout', [x], apply(x), (dy) => [apply(dy)], [step]);
}
