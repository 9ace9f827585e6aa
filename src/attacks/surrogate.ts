/**
 * The paper's own white-box attacks do not go through the optimisation. They go through a stand-in (its released
 * code, `ensattack.py` and `run_wb_purification_*.sh`): the image, noised to the level σ_a, is restored by one step of
 * the consistency model and classified. What fools it is then given to the defence: a transfer attack.
 *
 *   logits(x) = h((clip(f(2x − 1 + σ_a·n, σ_a), −1, 1) + 1)/2),  n ~ N(0, I)
 *
 * Published: σ_a = 0.1395, index 4 (from 0) of the ascending 18-level Karras grid; EOT over 20 draws. Their BPDA takes this
 * step for the identity on the way back.
 */
import type { Classifier } from '../cmap/vote.ts';
import { differentiable, noGrad } from '../engine/autograd.ts';
import { InputError } from '../engine/errors.ts';
import { randomNormal } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add } from '../kernels/broadcast.ts';
import { affine, clamp } from '../kernels/elementwise.ts';
import { type ConsistencyModel, karrasLevels, publishedSigmas } from '../nets/consistency.ts';
import { streams } from './attack.ts';
import type { GraphTarget } from './target.ts';

/** σ_a of the published attacks. */
export const publishedAttackSigma = karrasLevels(18, publishedSigmas.min, publishedSigmas.max)[4] as number;

/** x in [0, 1] with standard normal n on it, restored by one step at σ; in [0, 1]. */
export function consistencyStep(model: ConsistencyModel, x: Tensor, n: Tensor, sigma: number): Tensor {
  const noisy = add(affine(x, 2, -1), affine(n, sigma));
  return affine(clamp(model.denoise(noisy, sigma), -1, 1), 0.5, 0.5);
}

/**
 * One consistency step before the classifier. @param backward of the step: its gradient, or that of the identity (BPDA)
 * @throws InputError unless σ is positive
 */
export function surrogate(
  model: ConsistencyModel,
  classifier: Classifier,
  sigma = publishedAttackSigma,
  backward: 'exact' | 'identity' = 'exact',
): GraphTarget {
  if (!(sigma > 0 && Number.isFinite(sigma)))
    throw new InputError(`the surrogate's sigma must be positive, got ${sigma}`);
  model.prepare(sigma);
  return {
    classes: classifier.classes,
    randomised: true,
    logits(x, { seed, rows, step }) {
      const noise = randomNormal(x.device, x.shape, { seed, purpose: streams.surrogate, step, rows });
      const restore = () => consistencyStep(model, x, noise, sigma);
      const restored =
        backward === 'exact'
          ? restore()
          : differentiable('surrogate taken for the identity', [x], noGrad(restore), (dy) => [dy]);
      return classifier.logits(restored);
    },
  };
}
