/**
 * Structural similarity (Wang et al. 2004) as the paper computes it: an 11×11 Gaussian window of σ 1.5 on each channel,
 * zero padding 5 so that the map has the image's size and its border counts, C₁ = 0.01², C₂ = 0.03², variance E[x²] − μ².
 *
 * The window is separable, and so are central moments: rows first, then columns by the law of total variance. The
 * subtraction E[x²] − μ² itself, which loses up to six digits in f32 on flat images, is never done; neither is it in
 * the gradient. Measured against float64 on the fixtures: 1e-7 on the value and 4e-6 on the gradient at worst, on flat
 * images; elsewhere 2e-7. PyTorch in float32, which subtracts, is off by 8e-6 and 2e-4 there.
 */
import { differentiable } from '../engine/autograd.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { sizeOf, Tensor } from '../engine/tensor.ts';
import { sum } from './reduce.ts';
import { partsOf, rowSum, targetGroup } from './row-sum.ts';
import backwardColumnsSource from './ssim-backward-columns.wgsl';
import backwardRowsSource from './ssim-backward-rows.wgsl';
import columnsSource from './ssim-columns.wgsl';
import mapSource from './ssim-map.wgsl';
import rowsSource from './ssim-rows.wgsl';
import targetSource from './ssim-target.wgsl';
import windowSource from './ssim-window.wgsl';

/** An image batch to compare others with, and the moments that do not depend on the others. */
export interface SsimTarget {
  /** [B, H, W, C] in [0, 1]. */
  readonly y: Tensor;
  /** Mean and variance under the window: [B, H, W, C, 2]. */
  readonly moments: Tensor;
}

/** W0, the middle tap, to W5; the outer product of the taps is the 11×11 window, of sum 1. */
const window = (() => {
  const taps = Array.from({ length: 6 }, (_, i) => Math.exp(-(i ** 2) / (2 * 1.5 ** 2)));
  const total = 2 * taps.reduce((a, b) => a + b) - (taps[0] as number);
  return Object.fromEntries(taps.map((tap, i) => [`W${i}`, tap / total]));
})();

/**
 * What `ssim` needs to know of a target, computed once for many comparisons. Its tensors belong to the caller.
 * @param y [B, H, W, C] in [0, 1]
 * @throws ShapeError
 */
export function ssimTarget(y: Tensor): SsimTarget {
  check(
    y.rank === 4 && y.dtype === 'f32' && y.size > 0,
    () => `ssim: target is ${y.dtype} [${y.shape}], wanted f32 [B, H, W, C]`,
  );
  const { device } = y;
  const [, height, width, channels] = y.shape as [number, number, number, number];
  const rows = rowMoments(y, y, 1, 1);
  const target_moments = device.empty([...y.shape, 2]);
  const k = kernel('ssim-target', [windowSource, columnsSource, targetSource].join('\n'), window);
  device.run(k, { rows, target_moments }, { count: y.size, height, width, channels }, linearGrid(y.size));
  rows.dispose();
  return { y, moments: target_moments };
}

/**
 * Mean over H, W, C of the SSIM map. Differentiable in x, and in y where it is a tensor.
 * @param x [N, H, W, C] in [0, 1]
 * @param y [N, H, W, C], or [B, H, W, C] with N = B·K: image n is compared with target floor(n / K), without copies;
 *   or the `ssimTarget` of such a tensor, which is then a constant
 * @returns [N]
 * @throws ShapeError
 */
export function ssim(x: Tensor, y: Tensor | SsimTarget): Tensor {
  const target = y instanceof Tensor ? ssimTarget(y) : y;
  check(x.rank === 4, () => `ssim: images are [${x.shape}], wanted [N, H, W, C]`);
  const group = targetGroup('ssim', x, target.y);
  const scale = 1 / sizeOf(x.shape.slice(1));
  const sides: Sides = { x, groupX: 1, y: target.y, groupY: group, moments: target.moments };
  const { parts, slopes } = map(sides, x.node !== null);
  const inputs = y instanceof Tensor ? [x, y] : [x];
  const mean = rowSum(parts, scale);
  differentiable(
    'ssim',
    inputs,
    mean,
    (dy, [needsX, needsY]) => {
      const dx = needsX ? backward(sides, slopes ?? (map(sides, true).slopes as Tensor), dy, scale) : null;
      if (!needsY) return [dx, null];
      // SSIM is symmetric: the same with x and y exchanged, then summed over the K images of a target.
      const swapped: Sides = { x: target.y, groupX: group, y: x, groupY: 1, moments: ssimTarget(x).moments };
      const each = backward(swapped, map(swapped, true).slopes as Tensor, dy, scale);
      if (group === 1) return [dx, each];
      const [b, ...image] = target.y.shape;
      return [dx, sum(each.alias([b as number, group, ...image]), [1])];
    },
    [target.y, target.moments],
  );
  if (!mean.node) {
    slopes?.dispose();
    if (target !== y) target.moments.dispose();
  }
  return mean;
}

/** A comparison of x[n / groupX] with y[n / groupY] for every n; the gradient is that of x. */
interface Sides {
  readonly x: Tensor;
  readonly groupX: number;
  readonly y: Tensor;
  readonly groupY: number;
  /** Of y. */
  readonly moments: Tensor;
}

/** [N, H, W, C, 4]: mean and variance of x, covariance, mean of y, along the rows. */
function rowMoments(x: Tensor, y: Tensor, groupX: number, groupY: number): Tensor {
  const { device } = x;
  const [n, height, width, channels] = x.shape as [number, number, number, number];
  const rows = device.empty([n * groupX, height, width, channels, 4]);
  const count = n * groupX * height * width * channels;
  device.run(
    kernel('ssim-rows', [windowSource, rowsSource].join('\n'), window),
    { x, y, rows },
    { count, height, width, channels, group_x: groupX, group_y: groupY },
    linearGrid(count),
  );
  return rows;
}

/** Partial sums of the map [N, parts], and its slopes [N, H, W, C, 4] in the moments of x when wanted. */
function map(
  { x, groupX, y, groupY, moments }: Sides,
  wantsSlopes: boolean,
): { parts: Tensor; slopes: Tensor | null } {
  const { device } = x;
  const [b, height, width, channels] = x.shape as [number, number, number, number];
  const images = b * groupX;
  const rows = rowMoments(x, y, groupX, groupY);
  const parts = device.empty([images, partsOf(height * width * channels)]);
  const slopes = wantsSlopes ? device.empty(rows.shape) : null;
  const store = slopes
    ? '@group(0) @binding(4) var<storage, read_write> slopes: array<vec4<f32>>;\nfn store(at: u32, v: vec4<f32>) { slopes[at] = v; }'
    : 'fn store(at: u32, v: vec4<f32>) {}';
  device.run(
    kernel(
      slopes ? 'ssim-map slopes' : 'ssim-map',
      [windowSource, columnsSource, mapSource, store].join('\n'),
      window,
    ),
    { rows, target_moments: moments, parts, ...(slopes ? { slopes } : {}) },
    { images, parts: parts.shape[1] as number, height, width, channels, group: groupY },
    linearGrid(parts.size),
  );
  rows.dispose();
  return { parts, slopes };
}

/**
 * With f the map, (a, b, c) = ∂f/∂(μ_x, σ_x², σ_xy) and w the window:
 * dx(q) = dy / (H·W·C) · Σ_p w(q − p) [a(p) + 2 (x(q) − μ_x(p)) b(p) + (y(q) − μ_y(p)) c(p)], columns then rows.
 */
function backward(
  { x, groupX, y, groupY, moments }: Sides,
  slopes: Tensor,
  dy: Tensor,
  scale: number,
): Tensor {
  const { device } = x;
  const [b, height, width, channels] = x.shape as [number, number, number, number];
  const count = b * groupX * height * width * channels;
  const params = { count, height, width, channels, group_x: groupX, group_y: groupY };
  const columns = device.empty(slopes.shape);
  device.run(
    kernel('ssim-backward-columns', [windowSource, backwardColumnsSource].join('\n'), window),
    { x, y, slopes, target_moments: moments, columns },
    params,
    linearGrid(count),
  );
  const dx = device.empty([b * groupX, height, width, channels]);
  device.run(
    kernel('ssim-backward-rows', [windowSource, backwardRowsSource].join('\n'), window),
    { x, y, columns, dy, dx },
    { ...params, scale },
    linearGrid(count),
  );
  columns.dispose();
  return dx;
}
