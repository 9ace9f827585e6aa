/** What the kinds of training have in common, as seen by the step and the loop. */
import type { Device } from '../engine/device.ts';
import type { Tensor } from '../engine/tensor.ts';
import { slice } from '../kernels/shape.ts';
import type { Parameters } from '../nets/parameters.ts';

/** The images first..first+count−1 of an update: all of them, or those of one pass where gradients are accumulated. */
export interface Rows {
  readonly first: number;
  readonly count: number;
}

/** These rows of x. */
export function rowsOf(x: Tensor, { first, count }: Rows): Tensor {
  return count === x.shape[0] ? x : slice(x, 0, first, count);
}

/** Their numbers, so that what is drawn at random for an image does not depend on the pass it is in. */
export function rowIds(device: Device, { first, count }: Rows): Tensor {
  return device.tensor(
    Uint32Array.from({ length: count }, (_, i) => first + i),
    [count],
    'u32',
  );
}

export interface Recipe {
  /** Images of an update. */
  readonly batch: number;
  /** Computes the inputs of update `step` (0, 1, …) on the host and writes them; the device may still be at work on earlier ones. */
  load(step: number): void;
  /**
   * The loss of each of the images, recorded once and replayed.
   * @param p the parameters that the gradient is taken for
   * @returns [rows.count]
   */
  loss(p: Parameters, rows: Rows): Tensor;
  /** The target network's rate μ at this step; absent where there is no moving target. */
  targetRate?(step: number): number;
  /** What to log of a step beside the loss. */
  describe?(step: number): Readonly<Record<string, number>>;
  dispose(): void;
}
