/**
 * Projected gradient descent in the L∞ ball (Madry et al. 2018): from a random start, repeated steps along the
 * sign of the cross-entropy's gradient, each projected onto the ball and onto [0, 1]. One step is one replayed
 * Program.
 */

import type { Classifier } from '../cmap/vote.ts';
import { vjp } from '../engine/autograd.ts';
import { check, InputError } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { purposes, randomUniform } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add } from '../kernels/broadcast.ts';
import { crossEntropy } from '../kernels/cross-entropy.ts';
import { affine, clamp } from '../kernels/elementwise.ts';
import { sum } from '../kernels/reduce.ts';
import stepSource from './pgd-step.wgsl';

export interface PgdOptions {
  /** Radius of the L∞ ball, in [0, 1] pixel units: 8/255, not 8. */
  readonly eps: number;
  readonly steps: number;
  readonly stepSize: number;
  /** Start uniformly in the ball instead of at the image. */
  readonly randomStart: boolean;
  readonly seed: number;
}

export interface PgdHooks {
  readonly onStep?: (done: number, total: number) => void;
  /** Global number of each image, so that its random start does not depend on the batch. */
  readonly imageIds?: readonly number[];
}

/** @throws InputError naming the field, its value and its range */
export function checkPgdOptions(o: PgdOptions): void {
  if (!(o.eps >= 0 && o.eps <= 1)) {
    throw new InputError(
      `eps must be in [0, 1] pixel units, got ${o.eps}${o.eps > 1 ? `; did you mean ${o.eps}/255?` : ''}`,
    );
  }
  if (!Number.isInteger(o.steps) || o.steps < 1)
    throw new InputError(`steps must be a positive integer, got ${o.steps}`);
  if (!(o.stepSize > 0 && o.stepSize <= 1))
    throw new InputError(`the step size must be in (0, 1], got ${o.stepSize}`);
}

/**
 * Adversarial examples against `classifier`, untargeted, white-box.
 * @param x [N, H, W, C] in [0, 1]
 * @param labels true classes
 * @returns [N, H, W, C] in [0, 1], within eps of x
 */
export async function pgd(
  classifier: Classifier,
  x: Tensor,
  labels: readonly number[],
  options: PgdOptions,
  hooks: PgdHooks = {},
): Promise<Tensor> {
  checkPgdOptions(options);
  const { device } = x;
  const { eps, stepSize, steps, seed } = options;
  const n = x.shape[0] as number;
  check(labels.length === n, () => `pgd: ${labels.length} labels for ${n} images`);
  for (const label of labels) {
    check(
      Number.isInteger(label) && label >= 0 && label < classifier.classes,
      () => `pgd: label ${label} is outside 0..${classifier.classes - 1}`,
    );
  }
  const target = device.keep(device.tensor(labels, [n], 'u32'));
  const adversarial = device.keep(
    device.scope(() => {
      if (!options.randomStart) return affine(x, 1);
      const rows = hooks.imageIds ? device.tensor(hooks.imageIds, [n], 'u32') : undefined;
      const uniform = randomUniform(device, x.shape, { seed, purpose: purposes.attackStart, step: 0, rows });
      return clamp(add(x, affine(uniform, 2 * eps, -eps)), 0, 1);
    }),
  );
  const program = device.record('pgd step', () => {
    const { pullback } = vjp((u) => sum(crossEntropy(classifier.logits(u), target)), [adversarial]);
    const [gradient] = pullback() as [Tensor];
    device.run(
      kernel('pgd-step', stepSource),
      { x: adversarial, clean: x, gradient },
      { count: x.size, step: stepSize, eps },
      linearGrid(x.size),
    );
    return [];
  });
  try {
    await program.prepare();
    for (let i = 0; i < steps; i++) {
      program.run();
      await device.sync();
      hooks.onStep?.(i + 1, steps);
    }
    return adversarial;
  } finally {
    program.dispose();
    target.dispose();
  }
}
