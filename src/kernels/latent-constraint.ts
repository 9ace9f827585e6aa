/** The latent constraint of CMAP (Eq. 12): the K latents of an image stay distributed as the prior, pixel by pixel. */
import { differentiable } from '../engine/autograd.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { sizeOf, type Tensor } from '../engine/tensor.ts';
import source from './latent-constraint.wgsl';
import backwardSource from './latent-constraint-backward.wgsl';
import { partsOf, rowSum, totalSource } from './row-sum.ts';

export interface LatentConstraintOptions {
  /** μ₀ of the prior; 0 by default. */
  readonly mean?: number;
  /** σ₀ of the prior; 80 by default. */
  readonly std?: number;
  /** With K = 1 there is no standard deviation: true leaves its term out instead of failing. */
  readonly allowSingle?: boolean;
}

/**
 * mean over pixels of (mean_k z − μ₀)² + (std_k z − σ₀)², std with divisor K − 1 as `torch.std`. Where all K latents
 * of a pixel are equal the gradient of the second term is taken as 0 (in PyTorch it is NaN).
 * @param z [B, K, ...]
 * @returns [B]
 * @throws ShapeError, also for K = 1 without `allowSingle`
 */
export function latentConstraint(z: Tensor, options: LatentConstraintOptions = {}): Tensor {
  const { mean = 0, std = 80, allowSingle = false } = options;
  const { device } = z;
  const { groups, k, elements, length, constants, forwardSource } = layout('latentConstraint', z);
  check(
    k > 1 || allowSingle,
    () =>
      `latentConstraint: K is 1 in [${z.shape}]; a standard deviation needs at least 2 latents an image (or allowSingle)`,
  );
  const prior = { mean, deviation: std, weight: k > 1 ? 1 : 0 };
  const parts = device.empty([groups, partsOf(length)]);
  device.run(
    kernel('latent-constraint', forwardSource, { ...constants, MODE: 0 }),
    { z, parts },
    { groups, k, length, parts: partsOf(length), ...prior },
    linearGrid(parts.size),
  );

  // d/dz_k = [2 (m − μ₀) / K + 2 (s − σ₀) (z_k − m) / ((K − 1) s)] / pixels
  return differentiable('latentConstraint', [z], rowSum(parts, 1 / elements), (dy) => {
    const dz = device.empty(z.shape);
    device.run(
      kernel('latent-constraint-backward', backwardSource, constants),
      { z, dy, dz },
      { groups, k, length, ...prior, scale: 1 / elements },
      linearGrid(groups * length),
    );
    return [dz];
  });
}

/**
 * Means over pixels of mean_k z and std_k z (the curves of the paper's Fig. 6); no gradient. With K = 1 the second is 0.
 * @param z [B, K, ...]
 * @returns [B, 2]
 * @throws ShapeError
 */
export function latentStatistics(z: Tensor): Tensor {
  const { groups, k, elements, length, constants, forwardSource } = layout('latentStatistics', z);
  const parts = z.device.empty([groups, 2, partsOf(length)]);
  z.device.run(
    kernel('latent-constraint', forwardSource, { ...constants, MODE: 1 }),
    { z, parts },
    { groups, k, length, parts: partsOf(length), mean: 0, deviation: 0, weight: 0 },
    linearGrid(groups * partsOf(length)),
  );
  return rowSum(parts, 1 / elements);
}

function layout(name: string, z: Tensor) {
  check(z.dtype === 'f32', () => `${name}: latents are ${z.dtype}, wanted f32`);
  check(z.rank >= 2 && z.size > 0, () => `${name}: latents are [${z.shape}], wanted [B, K, ...]`);
  const [groups, k] = z.shape as [number, number];
  const elements = sizeOf(z.shape.slice(2));
  const wide = elements % 4 === 0;
  return {
    groups,
    k,
    elements,
    length: wide ? elements / 4 : elements,
    constants: { T: wide ? 'vec4<f32>' : 'f32' },
    forwardSource: source + totalSource(wide ? 4 : 1),
  };
}
