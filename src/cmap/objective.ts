/**
 * CMAP's objective (Eqs. 9, 10, 12), of which the defence and the attacks on it take gradients:
 *
 *   Eq. 9    L = L_a + λ L_d
 *   Eq. 10   L_a = (1/K) Σ_k [ MAE(G(z_k), 2x−1) − α SSIM((G(z_k)+1)/2, x) ]
 *   Eq. 12   L_d = mean over pixels of (mean_k z − 0)² + (std_k z − σ_max)², std unbiased
 *
 * The paper's text aligns mean and variance; the standard deviation is what its released code computes.
 */
import { differentiable } from '../engine/autograd.ts';
import { check } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, sub } from '../kernels/broadcast.ts';
import { affine, clamp, sqrt, square } from '../kernels/elementwise.ts';
import { latentConstraint } from '../kernels/latent-constraint.ts';
import { mae } from '../kernels/mae.ts';
import { mean } from '../kernels/reduce.ts';
import { reshape } from '../kernels/shape.ts';
import { type SsimTarget, ssim } from '../kernels/ssim.ts';
import type { ConsistencyModel } from '../nets/consistency.ts';

/** What an attacker changes to get a useful gradient; the defence uses neither. */
export interface Smoothing {
  /** τ > 0: √(d² + τ²) − τ instead of |d|, whose second derivative is zero almost everywhere. */
  readonly huber?: number;
  /** The clip to [-1, 1] passes gradients everywhere. */
  readonly straightThrough?: boolean;
}

/** The images as they are compared with: 2x − 1 and what SSIM needs of x. */
export interface Wanted {
  readonly target: Tensor;
  /** [B, H, W, C] in [0, 1], or its `ssimTarget`. */
  readonly similarity: Tensor | SsimTarget;
}

/**
 * What stands for MAE − α SSIM in a variant of CMAP: of images g [B, K, H, W, C] and target [B, 1, H, W, C], both in [-1, 1], values
 * [B, K], means over pixels so that λ keeps its meaning. Made of differentiable operations, as attacks take gradients of both.
 */
export type Distance = (g: Tensor, target: Tensor) => Tensor;

export interface Objective {
  /** [B] each, means over K·H·W·C. */
  readonly total: Tensor;
  readonly mae: Tensor;
  readonly ssim: Tensor;
  readonly constraint: Tensor;
}

/** G(z) = clip(f(z, σ_max), −1, 1). @param z [B, K, H, W, C] @returns [B·K, H, W, C] in [-1, 1] */
export function generate(model: ConsistencyModel, z: Tensor, smoothing: Smoothing = {}): Tensor {
  const [b, k, ...image] = z.shape as [number, number, number, number, number];
  const flat = reshape(z, [b * k, ...image]);
  if (!smoothing.straightThrough) return model.generate(flat);
  const raw = model.denoise(flat, model.sigmas.max);
  const clipped = clamp(raw, -1, 1);
  // Another tensor over the clipped values, whose cotangent goes to the unclipped.
  return differentiable('straight-through', [raw], clipped.alias(), (dy) => [dy]);
}

/**
 * @param z latents [B, K, H, W, C]
 * @param g `generate(z)`, or what stands for it: [B·K, H, W, C] in [-1, 1]
 */
export function objective(
  z: Tensor,
  g: Tensor,
  { target, similarity }: Wanted,
  weights: {
    readonly alpha: number;
    readonly lambda: number;
    readonly sigma: number;
    readonly distance?: Distance | undefined;
  },
  smoothing: Smoothing = {},
): Objective {
  const [b, k] = z.shape as [number, number];
  const byImage = (values: Tensor) => mean(reshape(values, [b, k]), [1]);
  const [, ...image] = target.shape;
  const each = [reshape(g, [b, k, ...image]), reshape(target, [b, 1, ...image])] as const;
  const apart = byImage(smoothing.huber ? pseudoHuber(...each, smoothing.huber) : mae(g, target));
  const similar = byImage(ssim(affine(g, 0.5, 0.5), similarity));
  const constraint = latentConstraint(z, { mean: 0, std: weights.sigma });
  const aligned = weights.distance
    ? byImage(valuesOf(weights.distance, ...each, [b, k]))
    : sub(apart, affine(similar, weights.alpha));
  const total = add(aligned, affine(constraint, weights.lambda));
  return { total, mae: apart, ssim: similar, constraint };
}

function pseudoHuber(g: Tensor, target: Tensor, tau: number): Tensor {
  const smooth = affine(sqrt(affine(square(sub(g, target)), 1, tau ** 2)), 1, -tau);
  return mean(smooth, [2, 3, 4]);
}

function valuesOf(distance: Distance, g: Tensor, target: Tensor, shape: readonly [number, number]): Tensor {
  const values = distance(g, target);
  check(
    String(values.shape) === String(shape),
    () => `distance: gives [${values.shape}], wanted [${shape}], a value for each of the K images`,
  );
  return values;
}
