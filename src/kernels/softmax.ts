/** Softmax and its logarithm over the last axis; the largest element is subtracted first, so nothing overflows. */
import { differentiable } from '../engine/autograd.ts';
import type { Capabilities } from '../engine/capabilities.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, type Tensor } from '../engine/tensor.ts';
import forwardSource from './softmax.wgsl';
import backwardSource from './softmax-backward.wgsl';
import backwardWorkgroupSource from './softmax-backward-workgroup.wgsl';
import forwardWorkgroupSource from './softmax-workgroup.wgsl';

/** `registers`: one invocation a row. `workgroup`: one workgroup a row, for GPUs. */
export type SoftmaxVariant = 'registers' | 'workgroup';

export interface SoftmaxKernel {
  readonly variant: SoftmaxVariant;
  /** Elements a load. */
  readonly lanes: 1 | 4;
  /** Invocations a workgroup; 0 for `registers`. */
  readonly threads: number;
}

/** Which kernel reduces `rows` rows of `columns` elements. A pure function. */
export function chooseSoftmaxKernel(
  shape: { rows: number; columns: number },
  capabilities: Pick<Capabilities, 'cpu'>,
  forced?: SoftmaxVariant,
): SoftmaxKernel {
  const lanes = shape.columns % 4 === 0 ? 4 : 1;
  const length = shape.columns / lanes;
  // A row of eight loads is not worth a barrier on a GPU; on CPU drivers no row is.
  const short = capabilities.cpu || length <= 8;
  if ((forced ?? (short ? 'registers' : 'workgroup')) === 'registers')
    return { variant: 'registers', lanes, threads: 0 };
  return { variant: 'workgroup', lanes, threads: [32, 64, 128].find((t) => t >= length) ?? 256 };
}

/**
 * exp(x) / Σ exp(x) over the last axis: `torch.softmax(x, -1)`.
 * @throws ShapeError when x has no axis or no elements
 */
export function softmax(x: Tensor, options: { variant?: SoftmaxVariant } = {}): Tensor {
  return normalise('softmax', x, false, options.variant);
}

/**
 * x − log Σ exp(x) over the last axis: `torch.log_softmax(x, -1)`.
 * @throws ShapeError when x has no axis or no elements
 */
export function logSoftmax(x: Tensor, options: { variant?: SoftmaxVariant } = {}): Tensor {
  return normalise('logSoftmax', x, true, options.variant);
}

function normalise(name: string, x: Tensor, LOG: boolean, forced?: SoftmaxVariant): Tensor {
  const { device } = x;
  checkFloats(name, { x });
  check(x.rank >= 1 && x.size > 0, () => `${name}: x [${x.shape}] has no last axis with elements`);
  const rows = x.size / (x.shape.at(-1) as number);
  const { variant, lanes, threads } = chooseSoftmaxKernel(
    { rows, columns: x.size / rows },
    device.capabilities,
    forced,
  );
  const params = { rows, columns: x.size / rows / lanes };
  const constants = { T: lanes === 4 ? 'vec4<f32>' : 'f32', LANES: lanes, LOG };
  const wide = { ...constants, THREADS: threads };
  const onWorkgroups = variant === 'workgroup';
  const grid = onWorkgroups ? linearGrid(rows, 1) : linearGrid(rows, 16);
  const y = device.empty(x.shape);
  const forward = onWorkgroups
    ? kernel('softmax-workgroup', forwardWorkgroupSource, wide)
    : kernel('softmax', forwardSource, constants);
  device.run(forward, { x, y }, params, grid);
  // softmax: dx = y·(dy − Σ y·dy); logarithm: dx = dy − exp(y)·Σ dy.
  return differentiable(name, [x], y, (dy) => {
    const dx = device.empty(x.shape);
    const backward = onWorkgroups
      ? kernel('softmax-backward-workgroup', backwardWorkgroupSource, wide)
      : kernel('softmax-backward', backwardSource, constants);
    device.run(backward, { y, dy, dx }, params, grid);
    return [dx];
  });
}
