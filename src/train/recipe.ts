/** What the kinds of training have in common, as seen by the step and the loop. */
import type { Tensor } from '../engine/tensor.ts';
import type { Parameters } from '../nets/parameters.ts';

export interface Recipe {
  /** Computes the inputs of update `step` (0, 1, …) on the host and writes them; the device may still be at work on earlier ones. */
  load(step: number): void;
  /**
   * The loss of each image, recorded once and replayed.
   * @param p the parameters that the gradient is taken for
   * @returns [B]
   */
  loss(p: Parameters): Tensor;
  /** The target network's rate μ at this step; absent where there is no moving target. */
  targetRate?(step: number): number;
  /** What to log of a step beside the loss. */
  describe?(step: number): Readonly<Record<string, number>>;
  dispose(): void;
}
