/**
 * Batch normalisation (Ioffe and Szegedy 2015) over the last axis, fused with ReLU: with given statistics for
 * inference (the gradient is then one elementwise kernel), and with the batch's own for training.
 */
import { differentiable } from '../engine/autograd.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, type Tensor } from '../engine/tensor.ts';
import forwardSource from './batch-norm.wgsl';
import backwardSource from './batch-norm-backward.wgsl';
import combineSource from './batch-norm-combine.wgsl';
import finishSource from './batch-norm-finish.wgsl';
import momentsSource from './batch-norm-moments.wgsl';
import sumsSource from './batch-norm-sums.wgsl';
import trainingBackwardSource from './batch-norm-training-backward.wgsl';

export interface BatchNormOptions {
  /** Added to the variance. */
  readonly eps: number;
  /** max(0, ·) last. */
  readonly relu?: boolean;
}

/** Each [C]. */
export interface BatchNormParameters {
  readonly scale: Tensor;
  readonly bias: Tensor;
  readonly mean: Tensor;
  readonly variance: Tensor;
}

/** How the rows × channels of x are cut up. A pure function. */
export function batchNormLayout(rows: number, channels: number) {
  const lanes = channels % 4 === 0 ? 4 : 1;
  const columns = channels / lanes;
  // Eight rows an invocation share the loads of its channels' parameters.
  const stride = Math.ceil(rows / 8);
  // Chunks of at least 32 rows, at most 256 of them: many invocations, and a short second pass.
  const chunk = Math.max(32, Math.ceil(rows / 256));
  const chunks = Math.ceil(rows / chunk);
  return { lanes, columns, stride, count: stride * columns, chunk, chunks, partials: chunks * columns };
}

/**
 * y = act((x − mean) / √(variance + eps) · scale + bias): `torch.nn.functional.batch_norm` with training=False, then
 * ReLU where asked for. Gradients for x, scale and bias; mean and variance are constants.
 * @param x [..., C]
 * @returns the shape of x
 * @throws ShapeError when a parameter is not [C]
 */
export function batchNorm(x: Tensor, parameters: BatchNormParameters, options: BatchNormOptions): Tensor {
  const { scale, bias, mean, variance } = parameters;
  const { eps, relu = false } = options;
  checkArguments('batchNorm', x, parameters, eps);
  const y = apply(x, parameters, eps, relu);
  // du = dy·[y > 0]: dx = du·scale/√(variance + eps), dscale = Σ du·(x − mean)/√(variance + eps), dbias = Σ du.
  return differentiable(
    'batchNorm',
    [x, scale, bias],
    y,
    (dy, needs) => {
      let dx: Tensor | null = null;
      if (needs[0]) {
        dx = x.device.empty(x.shape);
        const { T, params, grid } = layoutOf(x);
        const k = kernel('batch-norm-backward', backwardSource, { T, RELU: relu });
        x.device.run(k, { y: relu ? y : dy, dy, scale, variance, dx }, { ...params, eps }, grid);
      }
      const sums = needs[1] || needs[2] ? sumsOf(x, y, dy, mean, variance, eps, relu) : null;
      return [dx, sums?.dscale ?? null, sums?.dbias ?? null];
    },
    [mean, variance],
  );
}

/**
 * The same with the mean and biased variance of x over all axes but the last, and the gradient through them:
 * `torch.nn.functional.batch_norm` with training=True. Gradients flow through y only.
 * @param x [..., C], at least two rows
 * @param scale [C]
 * @param bias [C]
 * @returns y, and mean and variance [C] as used, for running statistics
 * @throws ShapeError when a parameter is not [C] or x has fewer than two rows
 */
export function batchNormTraining(
  x: Tensor,
  scale: Tensor,
  bias: Tensor,
  options: BatchNormOptions,
): { y: Tensor; mean: Tensor; variance: Tensor } {
  const { device } = x;
  const { eps, relu = false } = options;
  checkArguments('batchNormTraining', x, { scale, bias }, eps);
  const channels = scale.size;
  const rows = x.size / channels;
  check(rows >= 2, () => `batchNormTraining: x [${x.shape}] has ${rows} row, a variance wants at least 2`);
  const { T, layout } = layoutOf(x);
  const { columns, chunk, chunks, partials } = layout;
  const partial = device.empty([chunks, 2, channels]);
  const mean = device.empty([channels]);
  const variance = device.empty([channels]);
  device.run(
    kernel('batch-norm-moments', momentsSource, { T }),
    { x, partial },
    { rows, columns, chunk, count: partials },
    linearGrid(partials),
  );
  device.run(
    kernel('batch-norm-combine', combineSource, { T }),
    { partial, mean, variance },
    { rows, columns, chunk, chunks },
    linearGrid(columns),
  );
  partial.dispose();
  const y = apply(x, { scale, bias, mean, variance }, eps, relu);
  // h = (x − mean)·rstd: dbias = Σ du, dscale = Σ du·h, dx = scale·rstd·(du − dbias/rows − h·dscale/rows).
  differentiable('batchNormTraining', [x, scale, bias], y, (dy, needs) => {
    const { sums, dscale, dbias } = sumsOf(x, y, dy, mean, variance, eps, relu);
    let dx: Tensor | null = null;
    if (needs[0]) {
      dx = device.empty(x.shape);
      const { params, grid } = layoutOf(x);
      const k = kernel('batch-norm-training-backward', trainingBackwardSource, { T, RELU: relu });
      device.run(k, { x, y: relu ? y : dy, dy, scale, mean, variance, sums, dx }, { ...params, eps }, grid);
    }
    return [dx, dscale, dbias];
  });
  return { y, mean, variance };
}

function checkArguments(
  name: string,
  x: Tensor,
  parameters: Partial<BatchNormParameters>,
  eps: number,
): void {
  checkFloats(name, { x, ...parameters });
  check(x.rank >= 1 && x.size > 0, () => `${name}: x [${x.shape}] is not [...,C] with at least one element`);
  const channels = x.shape.at(-1) as number;
  for (const [key, p] of Object.entries(parameters) as [string, Tensor][]) {
    check(
      p.rank === 1 && p.size === channels,
      () => `${name}: ${key} [${p.shape}] is not [${channels}], the channels of x [${x.shape}]`,
    );
  }
  check(eps > 0, () => `${name}: eps ${eps} is not positive`);
}

function layoutOf(x: Tensor) {
  const rows = x.size / (x.shape.at(-1) as number);
  const layout = batchNormLayout(rows, x.size / rows);
  const { columns, stride, count } = layout;
  return {
    T: layout.lanes === 4 ? 'vec4<f32>' : 'f32',
    layout,
    params: { rows, columns, stride, count },
    grid: linearGrid(count),
  };
}

function apply(
  x: Tensor,
  { scale, bias, mean, variance }: BatchNormParameters,
  eps: number,
  relu: boolean,
): Tensor {
  const y = x.device.empty(x.shape);
  const { T, params, grid } = layoutOf(x);
  const k = kernel('batch-norm', forwardSource, { T, RELU: relu });
  x.device.run(k, { x, scale, bias, mean, variance, y }, { ...params, eps }, grid);
  return y;
}

/** The sums over rows of du and of du·h: [2, C] together, and each as the gradient it is. */
function sumsOf(
  x: Tensor,
  y: Tensor,
  dy: Tensor,
  mean: Tensor,
  variance: Tensor,
  eps: number,
  relu: boolean,
) {
  const { device } = x;
  const channels = mean.size;
  const { T, layout } = layoutOf(x);
  const { columns, chunk, chunks, partials } = layout;
  const partial = device.empty([chunks, 2, channels]);
  device.run(
    kernel('batch-norm-sums', sumsSource, { T, RELU: relu }),
    { x, y: relu ? y : dy, dy, mean, variance, partial },
    { rows: x.size / channels, columns, chunk, count: partials, eps },
    linearGrid(partials),
  );
  const sums = device.empty([2, channels]);
  const dscale = device.empty([channels]);
  const dbias = device.empty([channels]);
  device.run(
    kernel('batch-norm-finish', finishSource, { T }),
    { partial, sums, dscale, dbias },
    { columns, chunks },
    linearGrid(columns),
  );
  partial.dispose();
  return { sums, dscale, dbias };
}
