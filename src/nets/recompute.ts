/** Activation checkpointing of a network's blocks. */
import { recompute } from '../engine/autograd.ts';
import type { Tensor } from '../engine/tensor.ts';
import { halved } from '../kernels/half.ts';

/** Whether blocks are computed again for the gradient; `f16` keeps what they begin from rounded to 16 bits. */
export type Recompute = boolean | 'f16';

/**
 * Runs a block on results of earlier ones.
 * @param beside as for `recompute`
 */
export type RunBlock = (
  inputs: readonly [Tensor, ...Tensor[]],
  block: (...inputs: [Tensor, ...Tensor[]]) => Tensor,
  beside?: Tensor[],
) => Tensor;

/** How the blocks of one pass through a network are run. */
export function blockRunner(save: Recompute = false): RunBlock {
  if (!save) return (inputs, block) => block(...inputs);
  // What two blocks read, one of them by a skip connection, is kept once.
  const kept = new Map<Tensor, () => Tensor>();
  const source = (x: Tensor): (() => Tensor) => {
    const found = kept.get(x) ?? (save === 'f16' ? halved(x) : () => x);
    kept.set(x, found);
    return found;
  };
  return (inputs, block, beside) => {
    const [first, ...others] = inputs.map(source) as [() => Tensor, ...(() => Tensor)[]];
    // Both passes begin from the same bits.
    return recompute(inputs[0].device, () => block(first(), ...others.map((x) => x())), beside);
  };
}
