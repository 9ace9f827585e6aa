/**
 * Operations that only move data: reshape, transpose, slice, crop, pad, concat. They work on f32, u32 and i32;
 * gradients exist for f32.
 */
import { differentiable } from '../engine/autograd.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { type Shape, sizeOf, type Tensor } from '../engine/tensor.ts';
import blockSource from './shape-block.wgsl';
import copySource from './shape-copy.wgsl';
import {
  axisOf,
  elementType,
  halves,
  kernelRank,
  maxRank,
  mergeAxes,
  stridesOf,
  widen,
} from './shape-index.ts';
import padSource from './shape-pad.wgsl';

/**
 * The elements under a new shape, without a copy.
 * @param shape the same number of elements; one size may be -1 and is worked out
 * @throws ShapeError when the elements do not fit
 */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const open = shape.indexOf(-1);
  let full = shape;
  if (open >= 0) {
    const known = shape.reduce((n, d, i) => (i === open ? n : n * d), 1);
    check(
      known > 0 && x.size % known === 0 && shape.lastIndexOf(-1) === open,
      () => `reshape: [${x.shape}] has ${x.size} elements, [${shape}] does not divide them`,
    );
    full = shape.map((d, i) => (i === open ? x.size / known : d));
  }
  check(
    full.every((d) => Number.isInteger(d) && d >= 0),
    () => `reshape: [${full}] is not a shape`,
  );
  const y = x.alias([...full]);
  // y and x are the same numbers: dx = dy under x's shape.
  return differentiable('reshape', [x], y, (dy) => [reshape(dy, x.shape)]);
}

/** y[i] = x[offset + Σ i_k strides_k], no gradient: the copy behind transposes, slices and broadcasts. */
export function stridedCopy(
  name: string,
  x: Tensor,
  shape: Shape,
  strides: readonly number[],
  offset = 0,
): Tensor {
  const { device } = x;
  const walk = mergeAxes(shape, [strides]);
  check(
    walk.sizes.length <= maxRank,
    () => `${name}: [${x.shape}] -> [${shape}] needs more than ${maxRank} axes`,
  );
  const y = device.empty(shape, x.dtype);
  const wide = widen(walk, [offset]);
  const used = wide ?? walk;
  const splat = walk.strides[0]?.[0] === 0;
  const constants = {
    T: elementType(name, x.dtype, wide !== null),
    S: elementType(name, x.dtype, wide !== null && !splat),
    RANK: kernelRank(used),
  };
  const [size0, size1] = halves(used.sizes, 1);
  const [x0, x1] = halves(used.strides[0] as readonly number[], 0);
  const count = y.size / (wide ? 4 : 1);
  const params = { count, offset: offset / (wide && !splat ? 4 : 1), size0, size1, x0, x1 };
  device.run(kernel('copy', copySource, constants), { x, y }, params, linearGrid(count));
  return y;
}

/**
 * y's axis k is x's axis permutation[k], as numpy.transpose and torch.permute.
 * @throws ShapeError unless `permutation` holds each axis once
 */
export function transpose(x: Tensor, permutation: readonly number[]): Tensor {
  const inverse = permutation.map((_, i) => permutation.indexOf(i));
  check(
    permutation.length === x.rank && !inverse.includes(-1),
    () => `transpose: [${permutation}] is not a permutation of the axes of [${x.shape}]`,
  );
  const shape = permutation.map((p) => x.shape[p] as number);
  // Only axes of size 1 move: the order of the elements stays.
  const moving = permutation.filter((p) => x.shape[p] !== 1);
  if (moving.every((p, i) => i === 0 || p > (moving[i - 1] as number))) return reshape(x, shape);
  const strides = stridesOf(x.shape);
  const y = stridedCopy(
    'transpose',
    x,
    shape,
    permutation.map((p) => strides[p] as number),
  );
  return differentiable('transpose', [x], y, (dy) => [transpose(dy, inverse)]);
}

/**
 * The part of x that begins at `starts` and has shape `shape`.
 * @throws ShapeError when it reaches outside x
 */
export function crop(x: Tensor, starts: readonly number[], shape: Shape): Tensor {
  check(
    starts.length === x.rank && shape.length === x.rank,
    () => `crop: [${starts}] and [${shape}] do not fit rank ${x.rank} of [${x.shape}]`,
  );
  shape.forEach((n, k) => {
    const start = starts[k] as number;
    check(
      Number.isInteger(start) &&
        Number.isInteger(n) &&
        start >= 0 &&
        n >= 1 &&
        start + n <= (x.shape[k] as number),
      () => `crop: ${start}..${start + n} on axis ${k} is outside 0..${x.shape[k]}`,
    );
  });
  if (String(shape) === String(x.shape)) return reshape(x, x.shape);
  const strides = stridesOf(x.shape);
  const offset = starts.reduce((sum, s, k) => sum + s * (strides[k] as number), 0);
  const y = stridedCopy('crop', x, shape, strides, offset);
  // What was not taken has no influence: dx = dy surrounded by zeros.
  return differentiable('crop', [x], y, (dy) => [
    pad(
      dy,
      starts.map((s, k) => [s, (x.shape[k] as number) - s - (shape[k] as number)]),
    ),
  ]);
}

/** x[..., start : start+length, ...] on one axis (negative axes count from the end). */
export function slice(x: Tensor, axis: number, start: number, length: number): Tensor {
  const at = axisOf('slice', axis, x.rank);
  check(
    Number.isInteger(start) &&
      Number.isInteger(length) &&
      start >= 0 &&
      length >= 1 &&
      start + length <= (x.shape[at] as number),
    () => `slice: ${start}..${start + length} on axis ${axis} of [${x.shape}] is outside 0..${x.shape[at]}`,
  );
  return crop(
    x,
    x.shape.map((_, k) => (k === at ? start : 0)),
    x.shape.map((n, k) => (k === at ? length : n)),
  );
}

/**
 * x surrounded by `value`.
 * @param pads [before, after] for every axis, none negative (take `crop` or `slice` for that)
 */
export function pad(x: Tensor, pads: readonly (readonly number[])[], value = 0): Tensor {
  check(pads.length === x.rank, () => `pad: ${pads.length} pairs for [${x.shape}] of rank ${x.rank}`);
  for (const pair of pads) {
    check(
      pair.length === 2 && pair.every((p) => Number.isInteger(p) && p >= 0),
      () => `pad: [${pair}] is not [before, after] of whole numbers from 0`,
    );
  }
  if (pads.every(([before, after]) => before === 0 && after === 0)) return reshape(x, x.shape);
  const { device } = x;
  const shape = x.shape.map((n, k) => n + (pads[k]?.[0] as number) + (pads[k]?.[1] as number));

  // Innermost first; an axis that is not padded joins the one inside it.
  const size: number[] = [];
  const before: number[] = [];
  const inside: number[] = [];
  for (let k = x.rank - 1; k >= 0; k--) {
    const n = x.shape[k] as number;
    const first = pads[k]?.[0] as number;
    const total = shape[k] as number;
    const top = size.length - 1;
    if (top >= 0 && size[top] === inside[top]) {
      // The axes inside are taken whole, so this one only counts in their multiples.
      const unit = size[top] as number;
      size[top] = total * unit;
      before[top] = first * unit;
      inside[top] = n * unit;
    } else {
      size.push(total);
      before.push(first);
      inside.push(n);
    }
  }
  check(size.length <= maxRank, () => `pad: more than ${maxRank} padded axes in [${x.shape}]`);
  const wide = [size[0], before[0], inside[0]].every((n) => (n as number) % 4 === 0);
  if (wide) for (const list of [size, before, inside]) list[0] = (list[0] as number) / 4;

  const y = device.empty(shape, x.dtype);
  const T = elementType('pad', x.dtype, wide);
  const rank = size.length <= 3 ? size.length : 6;
  const scalar = x.dtype === 'f32' ? 'f32' : 'u32';
  const source = `${padSource}\nfn fill(bits: u32) -> ${scalar} { return bitcast<${scalar}>(bits); }`;
  const bits = new DataView(new ArrayBuffer(4));
  if (x.dtype === 'f32') bits.setFloat32(0, value);
  else bits.setInt32(0, value);
  const [size0, size1] = halves(size, 1);
  const [before0, before1] = halves(before, 0);
  const [inside0, inside1] = halves(inside, 1);
  const count = y.size / (wide ? 4 : 1);
  device.run(
    kernel('pad', source, { T, RANK: rank }),
    { x, y },
    { count, bits: bits.getUint32(0), size0, size1, before0, before1, inside0, inside1 },
    linearGrid(count),
  );
  return differentiable('pad', [x], y, (dy) => [
    crop(
      dy,
      pads.map((p) => p[0] as number),
      x.shape,
    ),
  ]);
}

/**
 * The tensors one after another along `axis` (negative counts from the end).
 * @throws ShapeError unless all other sizes agree
 */
export function concat(xs: readonly Tensor[], axis: number): Tensor {
  const first = xs[0];
  check(first, () => 'concat: no tensors given');
  const at = axisOf('concat', axis, first.rank);
  for (const x of xs) {
    check(
      x.rank === first.rank &&
        x.dtype === first.dtype &&
        x.shape.every((n, k) => k === at || n === first.shape[k]),
      () => `concat: [${x.shape}] ${x.dtype} does not fit [${first.shape}] ${first.dtype} along axis ${axis}`,
    );
  }
  if (xs.length === 1) return reshape(first, first.shape);
  const { device } = first;
  const total = xs.reduce((sum, x) => sum + (x.shape[at] as number), 0);
  const shape = first.shape.map((n, k) => (k === at ? total : n));
  const unit = sizeOf(first.shape.slice(at + 1));
  const stride = total * unit;
  const y = device.empty(shape, first.dtype);
  const starts: number[] = [];
  let start = 0;
  for (const x of xs) {
    starts.push(start);
    const inner = (x.shape[at] as number) * unit;
    const offset = start * unit;
    const wide = inner % 4 === 0 && stride % 4 === 0 && offset % 4 === 0;
    const by = wide ? 4 : 1;
    const count = x.size / by;
    const k = kernel('concat', blockSource, { T: elementType('concat', x.dtype, wide) });
    if (count > 0) {
      device.run(
        k,
        { x, y },
        { count, inner: inner / by, stride: stride / by, offset: offset / by },
        linearGrid(count),
      );
    }
    start += x.shape[at] as number;
  }
  // Each argument's gradient is its part of dy.
  return differentiable('concat', xs, y, (dy, needs) =>
    xs.map((x, i) => (needs[i] ? slice(dy, at, starts[i] as number, x.shape[at] as number) : null)),
  );
}
