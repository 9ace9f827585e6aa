/**
 * What is attacked. A target is a graph: `logits(x, draw)` made of differentiable operations, recorded once and
 * replayed. A Classifier is one, which draws nothing. Or it is a process: a defence that runs Programs of its own and
 * pulls a cotangent of its logits back to the image in its own way (unrolled, BPDA, a surrogate).
 */
import type { Tensor } from '../engine/tensor.ts';

/** What a randomised target draws from: arguments of randomNormal and its kin. Different at every call. */
export interface Draw {
  readonly seed: number;
  /** Global id of each image, u32 [N]. */
  readonly rows: Tensor;
  /** Which draw, u32 [1] on the device. */
  readonly step: Tensor;
  /** True classes, u32 [N]: an attacker knows them, and may weigh the parts of a vote by them. */
  readonly labels?: Tensor;
  /** `seed` is one that the defence itself will have: draw as its judgement does. */
  readonly known?: boolean;
}

export interface GraphTarget {
  readonly classes: number;
  /** True where `draw` is used. */
  readonly randomised?: boolean;
  /** [N, H, W, C] in [0, 1] -> [N, classes]. Logits, not probabilities. */
  logits(x: Tensor, draw: Draw): Tensor;
}

export interface ProcessTarget {
  readonly classes: number;
  readonly randomised?: boolean;
  /** As `logits`, with the way back. The caller calls `pullback` at most once, then `dispose`, before the next `process`. */
  process(x: Tensor, draw: Draw): Promise<Process>;
  /** Other images lie in x from now on: forget what was found for those before. */
  restart?(): void;
}

export interface Process {
  /** [N, classes]. */
  readonly logits: Tensor;
  /** Cotangent of the logits [N, classes] -> cotangent of the images. */
  pullback(cotangent: Tensor): Promise<Tensor>;
  dispose(): void;
}

export type Target = GraphTarget | ProcessTarget;
