/**
 * add, sub, mul and div with NumPy's broadcasting: shapes are aligned at the last axis, and an axis of size 1 (or
 * one that is missing) repeats. Gradients are summed over what was repeated.
 */
import { differentiable } from '../engine/autograd.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Shape, Tensor } from '../engine/tensor.ts';
import source from './broadcast.wgsl';
import residualSource from './broadcast-residual.wgsl';
import { affine } from './elementwise.ts';
import { sumTo } from './reduce.ts';
import { halves, kernelRank, maxRank, mergeAxes, stridesOf, widen } from './shape-index.ts';

/** The shape that a and b broadcast to. @throws ShapeError when they do not */
function broadcastShape(name: string, a: Shape, b: Shape): number[] {
  const rank = Math.max(a.length, b.length);
  const shape: number[] = [];
  for (let k = 0; k < rank; k++) {
    const m = a[k - rank + a.length] ?? 1;
    const n = b[k - rank + b.length] ?? 1;
    check(
      m === n || m === 1 || n === 1,
      () => `${name}: [${a}] and [${b}] do not broadcast: ${m} against ${n}`,
    );
    shape.push(m === 1 ? n : m);
  }
  return shape;
}

function stridesIn(shape: Shape, x: Shape): number[] {
  const lead = shape.length - x.length;
  const own = stridesOf(x);
  return shape.map((_, k) => (k < lead || x[k - lead] === 1 ? 0 : (own[k - lead] as number)));
}

/** y = f(a, b), f a WGSL expression; no gradient. */
function binary(name: string, f: string, a: Tensor, b: Tensor): Tensor {
  const { device } = a;
  check(a.dtype === 'f32' && b.dtype === 'f32', () => `${name}: ${a.dtype} and ${b.dtype} are not both f32`);
  const shape = broadcastShape(name, a.shape, b.shape);
  const walk = mergeAxes(shape, [stridesIn(shape, a.shape), stridesIn(shape, b.shape)]);
  check(
    walk.sizes.length <= maxRank,
    () => `${name}: [${a.shape}] and [${b.shape}] need more than ${maxRank} axes`,
  );
  const y = device.empty(shape);
  const wide = widen(walk);
  const used = wide ?? walk;
  const [sa, sb] = used.strides as [number[], number[]];
  const element = (strides: number[]) => (wide && strides[0] !== 0 ? 'vec4<f32>' : 'f32');
  const constants = { T: wide ? 'vec4<f32>' : 'f32', A: element(sa), B: element(sb), RANK: kernelRank(used) };
  const [size0, size1] = halves(used.sizes, 1);
  const [a0, a1] = halves(sa, 0);
  const [b0, b1] = halves(sb, 0);
  const count = y.size / (wide ? 4 : 1);
  const k = kernel(name, `${source}\nfn f(a: T, b: T) -> T { return ${f}; }`, constants);
  device.run(k, { a, b, y }, { count, size0, size1, a0, a1, b0, b1 }, linearGrid(count));
  return y;
}

/** a + b. */
export function add(a: Tensor, b: Tensor): Tensor {
  const y = binary('add', 'a + b', a, b);
  // da = db = dy
  return differentiable('add', [a, b], y, (dy, needs) => [
    needs[0] ? sumTo(dy, a.shape) : null,
    needs[1] ? sumTo(dy, b.shape) : null,
  ]);
}

/** a − b. */
export function sub(a: Tensor, b: Tensor): Tensor {
  const y = binary('sub', 'a - b', a, b);
  // da = dy, db = −dy
  return differentiable('sub', [a, b], y, (dy, needs) => [
    needs[0] ? sumTo(dy, a.shape) : null,
    needs[1] ? affine(sumTo(dy, b.shape), -1) : null,
  ]);
}

/** a·b. */
export function mul(a: Tensor, b: Tensor): Tensor {
  const y = binary('mul', 'a * b', a, b);
  // da = dy·b, db = dy·a
  return differentiable('mul', [a, b], y, (dy, needs) => [
    needs[0] ? sumTo(mul(dy, b), a.shape) : null,
    needs[1] ? sumTo(mul(dy, a), b.shape) : null,
  ]);
}

/** a/b. */
export function div(a: Tensor, b: Tensor): Tensor {
  const y = binary('div', 'a / b', a, b);
  // da = dy/b, db = −(dy/b)·(a/b)
  return differentiable('div', [a, b], y, (dy, needs) => {
    const da = div(dy, b);
    return [
      needs[0] ? sumTo(da, a.shape) : null,
      needs[1] ? affine(sumTo(mul(da, div(a, b)), b.shape), -1) : null,
    ];
  });
}

/**
 * (a + b)·factor for equal shapes: the end of a residual block, with factor 1/√2 in NCSN++.
 * @throws ShapeError unless the shapes are equal
 */
export function residual(a: Tensor, b: Tensor, factor: number): Tensor {
  const { device } = a;
  check(
    String(a.shape) === String(b.shape) && a.dtype === 'f32' && b.dtype === 'f32',
    () => `residual: [${a.shape}] ${a.dtype} and [${b.shape}] ${b.dtype} must be f32 of one shape`,
  );
  const y = device.empty(a.shape);
  const wide = y.size % 4 === 0;
  const count = wide ? y.size / 4 : y.size;
  const k = kernel('residual', residualSource, { T: wide ? 'vec4<f32>' : 'f32' });
  device.run(k, { a, b, y }, { count, factor }, linearGrid(count));
  // da = db = factor · dy: computed once, given to both.
  return differentiable('residual', [a, b], y, (dy) => {
    const g = factor === 1 ? dy : affine(dy, factor);
    return [g, g];
  });
}
