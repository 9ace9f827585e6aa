/**
 * Sums, means and maxima over axes, and `broadcastTo`, the adjoint of a sum.
 *
 * Sums are blocked: no chain of additions is longer than about a hundred terms, so a sum of a million numbers of
 * one sign is good to about 1e-7 and the order of additions is fixed by shape and device alone.
 */
import { differentiable } from '../engine/autograd.ts';
import type { Capabilities } from '../engine/capabilities.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, type Shape, sizeOf, type Tensor } from '../engine/tensor.ts';
import { affine } from './elementwise.ts';
import maxSource from './reduce-max.wgsl';
import maxBackwardSource from './reduce-max-backward.wgsl';
import maxWorkgroupSource from './reduce-max-workgroup.wgsl';
import sumSource from './reduce-sum.wgsl';
import workgroupSource from './reduce-sum-workgroup.wgsl';
import { reshape, stridedCopy } from './shape.ts';
import { axisOf, stridesOf } from './shape-index.ts';

export interface ReduceShape {
  readonly outer: number;
  /** Size of the axis that is reduced. */
  readonly length: number;
  readonly inner: number;
}

export type ReduceVariant = 'registers' | 'workgroup';

/** One pass of a blocked sum; passes follow until one chunk is left. */
export interface SumKernel {
  readonly variant: ReduceVariant;
  /** vec4 along `inner`, along the reduced axis (inner = 1: `lanes`), or scalars. */
  readonly vector: 'inner' | 'lanes' | 'none';
  /** Partial sums a reduced line becomes. */
  readonly chunks: number;
  /** Terms (in steps of four for `lanes`) of a partial sum. */
  readonly chunk: number;
  /** Invocations across `inner`, for the workgroup variant. */
  readonly tx: number;
}

const nextPowerOfTwo = (n: number) => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/**
 * How to sum [outer, length, inner] over the middle. Registers where barriers are slow (CPU drivers) and where the
 * kept elements alone fill the device; workgroups where long lines must be spread over many invocations.
 */
export function chooseSumKernel(
  shape: ReduceShape,
  capabilities: Pick<Capabilities, 'cpu'>,
  variant?: ReduceVariant,
): SumKernel {
  const vector =
    shape.inner % 4 === 0 ? 'inner' : shape.inner === 1 && shape.length % 4 === 0 ? 'lanes' : 'none';
  const length = vector === 'lanes' ? shape.length / 4 : shape.length;
  const inner = vector === 'inner' ? shape.inner / 4 : shape.inner;
  const kept = shape.outer * inner;
  const short = length <= 32 || (kept >= 32768 && length <= 1024);
  const chosen = variant ?? (capabilities.cpu || short ? 'registers' : 'workgroup');
  if (chosen === 'registers') {
    if (length <= 256) return { variant: chosen, vector, chunks: 1, chunk: length, tx: 1 };
    const chunks = Math.max(nextPowerOfTwo(Math.sqrt(length)), Math.ceil(length / 512));
    return { variant: chosen, vector, chunks, chunk: Math.ceil(length / chunks), tx: 1 };
  }
  const tx = Math.min(64, nextPowerOfTwo(inner));
  const rows = 256 / tx;
  // At least 8 terms a lane, at most 64 (fewer while the device is not full).
  const tiles = shape.outer * Math.ceil(inner / tx);
  const wanted = Math.max(1, Math.floor(1024 / tiles));
  const terms = Math.min(64, Math.max(8, Math.ceil(length / (wanted * rows))));
  const chunk = Math.min(length, rows * terms);
  return { variant: chosen, vector, chunks: Math.ceil(length / chunk), chunk, tx };
}

/** [outer, length, inner] -> [outer, inner], multiplied by `factor`. */
function sumMiddle(x: Tensor, shape: ReduceShape, factor: number, variant?: ReduceVariant): Tensor {
  const { device } = x;
  const { outer, length, inner } = shape;
  const choice = chooseSumKernel(shape, device.capabilities, variant);
  const { vector, chunks, chunk, tx } = choice;
  const last = chunks === 1;
  const y = device.empty([outer, chunks, inner]);
  const T = vector === 'none' ? 'f32' : 'vec4<f32>';
  const U = vector === 'inner' ? 'vec4<f32>' : 'f32';
  const finish = vector === 'lanes' ? '(v.x + v.y) + (v.z + v.w)' : 'v';
  const appended = `\nfn finish(v: T) -> U { return ${finish}; }`;
  const used = {
    length: vector === 'lanes' ? length / 4 : length,
    inner: vector === 'inner' ? inner / 4 : inner,
  };
  const scale = last ? factor : 1;
  if (choice.variant === 'registers') {
    const count = outer * chunks * used.inner;
    const k = kernel('sum', sumSource + appended, { T, U });
    device.run(k, { x, y }, { count, ...used, chunks, scale }, linearGrid(count), { flops: x.size });
  } else {
    const tiles = Math.ceil(used.inner / tx);
    const groups = tiles * chunks * outer;
    const k = kernel('sum-workgroup', workgroupSource + appended, { T, U, TX: tx, TY: 256 / tx });
    const params = { groups, ...used, chunks, chunk, tiles, scale };
    device.run(k, { x, y }, params, linearGrid(groups, 1), { flops: x.size });
  }
  if (last) return y;
  const z = sumMiddle(y, { outer, length: chunks, inner }, factor, variant);
  y.dispose();
  return z;
}

export interface ReduceOptions {
  /** Keep the reduced axes with size 1. */
  readonly keepDims?: boolean;
  /** Forces a kernel, for tests and measurements. */
  readonly variant?: ReduceVariant;
}

function sumScaled(
  name: string,
  x: Tensor,
  axes: readonly number[] | undefined,
  factor: number,
  options: ReduceOptions,
): Tensor {
  checkFloats(name, { x });
  check(x.size > 0, () => `${name}: [${x.shape}] has no elements`);
  const reduced = new Set((axes ?? x.shape.map((_, k) => k)).map((axis) => axisOf(name, axis, x.rank)));
  check(
    axes === undefined || reduced.size === axes.length,
    () => `${name}: an axis is named twice in [${axes}]`,
  );
  const kept = x.shape.map((n, k) => (reduced.has(k) ? 1 : n));
  const shape = options.keepDims ? kept : x.shape.filter((_, k) => !reduced.has(k));

  // Runs of neighbouring reduced axes, the last run first; each becomes one blocked sum.
  const runs: [number, number][] = [];
  for (let k = x.rank - 1; k >= 0; k--) {
    if (!reduced.has(k) || x.shape[k] === 1) continue;
    const run = runs.at(-1);
    if (run && x.shape.slice(k + 1, run[0]).every((n) => n === 1)) run[0] = k;
    else runs.push([k, k + 1]);
  }
  let y: Tensor | null = null;
  const sizes = [...x.shape];
  runs.forEach(([from, to], i) => {
    const line = {
      outer: sizeOf(sizes.slice(0, from)),
      length: sizeOf(sizes.slice(from, to)),
      inner: sizeOf(sizes.slice(to)),
    };
    const next = sumMiddle(y ?? x, line, i === runs.length - 1 ? factor : 1, options.variant);
    y?.dispose();
    y = next;
    sizes.fill(1, from, to);
  });
  const total = y as Tensor | null;
  const out = total ? total.alias(shape) : factor === 1 ? x.alias(shape) : affine(x, factor).alias(shape);
  total?.dispose();
  // Every summand has influence `factor`: dx = factor · dy, repeated along the reduced axes.
  return differentiable(name, [x], out, (dy) => [
    broadcastTo(reshape(factor === 1 ? dy : affine(dy, factor), kept), x.shape),
  ]);
}

/**
 * Σ x over `axes` (all when left out; negative ones count from the end), as torch.sum. A full sum has shape [].
 * @throws ShapeError for an axis that x does not have
 */
export function sum(x: Tensor, axes?: readonly number[], options: ReduceOptions = {}): Tensor {
  return sumScaled('sum', x, axes, 1, options);
}

/** The mean of x over `axes` (all when left out), as torch.mean. */
export function mean(x: Tensor, axes?: readonly number[], options: ReduceOptions = {}): Tensor {
  const over = (axes ?? x.shape.map((_, k) => k)).map((axis) => axisOf('mean', axis, x.rank));
  const count = over.reduce((n, k) => n * (x.shape[k] as number), 1);
  return sumScaled('mean', x, axes, 1 / count, options);
}

/**
 * x repeated along new leading axes and axes of size 1, as torch.broadcast_to.
 * @throws ShapeError when x does not broadcast to `shape`
 */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  const lead = shape.length - x.rank;
  check(
    lead >= 0 && x.shape.every((n, k) => n === 1 || n === shape[lead + k]),
    () => `broadcastTo: [${x.shape}] does not broadcast to [${shape}]`,
  );
  if (sizeOf(shape) === x.size) return reshape(x, shape);
  const own = stridesOf(x.shape);
  const strides = shape.map((_, k) => (k < lead || x.shape[k - lead] === 1 ? 0 : (own[k - lead] as number)));
  const y = stridedCopy('broadcastTo', x, shape, strides);
  // Every copy counts: dx = Σ dy over the copies.
  return differentiable('broadcastTo', [x], y, (dy) => [sumTo(dy, x.shape)]);
}

/** x summed over the axes that broadcasting to x.shape would repeat: the gradient of `broadcastTo`. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (String(shape) === String(x.shape)) return x;
  const lead = x.rank - shape.length;
  const axes = x.shape.flatMap((n, k) => (k < lead || (shape[k - lead] === 1 && n !== 1) ? [k] : []));
  return reshape(sum(x, axes), shape);
}

/** Like `chooseSumKernel`: serial in registers, or a workgroup for each maximum. */
export function chooseMaxKernel(shape: ReduceShape, capabilities: Pick<Capabilities, 'cpu'>): ReduceVariant {
  const kept = shape.outer * shape.inner;
  return capabilities.cpu || shape.length < 64 || kept >= 16384 ? 'registers' : 'workgroup';
}

function maxMiddle(
  x: Tensor,
  shape: ReduceShape,
  kept: Shape,
  variant?: ReduceVariant,
): { value: Tensor; index: Tensor } {
  const { device } = x;
  const { outer, length, inner } = shape;
  const count = outer * inner;
  const value = device.empty(kept);
  const index = device.empty(kept, 'u32');
  const registers = (variant ?? chooseMaxKernel(shape, device.capabilities)) === 'registers';
  const k = registers ? kernel('max', maxSource) : kernel('max-workgroup', maxWorkgroupSource);
  device.run(k, { x, y: value, index }, { count, length, inner }, linearGrid(count, registers ? 64 : 1));
  return { value, index };
}

function lineOf(name: string, x: Tensor, axis: number): { at: number; line: ReduceShape } {
  checkFloats(name, { x });
  const at = axisOf(name, axis, x.rank);
  check(x.size > 0, () => `${name}: [${x.shape}] has no elements`);
  const line = {
    outer: sizeOf(x.shape.slice(0, at)),
    length: x.shape[at] as number,
    inner: sizeOf(x.shape.slice(at + 1)),
  };
  return { at, line };
}

/**
 * The maximum over one axis, as torch.max(x, axis).values. Among equal maxima the first takes the whole gradient
 * (torch.amax would share it). NaN is not propagated.
 */
export function max(x: Tensor, axis: number, options: ReduceOptions = {}): Tensor {
  const { at, line } = lineOf('max', x, axis);
  const shape = options.keepDims
    ? x.shape.map((n, k) => (k === at ? 1 : n))
    : x.shape.filter((_, k) => k !== at);
  const { value, index } = maxMiddle(x, line, shape, options.variant);
  // dx = dy at the first maximum, 0 elsewhere.
  differentiable('max', [x], value, (dy) => {
    const dx = x.device.empty(x.shape);
    const k = kernel('max-backward', maxBackwardSource);
    x.device.run(
      k,
      { dy, index, dx },
      { count: x.size, length: line.length, inner: line.inner },
      linearGrid(x.size),
    );
    return [dx];
  });
  if (!value.node) index.dispose();
  return value;
}

/** Index of the first maximum along the last axis, u32, without that axis. No gradient. NaN is not propagated. */
export function argmax(x: Tensor, options: Pick<ReduceOptions, 'variant'> = {}): Tensor {
  const { at, line } = lineOf('argmax', x, -1);
  const { value, index } = maxMiddle(x, line, x.shape.slice(0, at), options.variant);
  value.dispose();
  return index;
}
