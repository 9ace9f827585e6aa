/**
 * Functions of one number, applied to every element: y = f(x), dx = f'(x) dy. One row a function; the expressions
 * are WGSL in x of type T, which is f32 or vec4<f32>.
 *
 * Traps that the expressions avoid: tanh(±100) is NaN on SwiftShader, exp overflows above 88, and NaN is seen
 * only in its bits.
 */
import { differentiable } from '../engine/autograd.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import forwardSource from './elementwise.wgsl';
import backwardSource from './elementwise-backward.wgsl';

const sigmoidOf = '(T(1.0) / (T(1.0) + exp(-clamp(x, T(-80.0), T(80.0)))))';

const table = {
  negate: { f: '-x', df: 'T(-1.0)' },
  square: { f: 'x * x', df: '2.0 * x' },
  sqrt: { f: 'sqrt(x)', df: '0.5 / sqrt(x)' },
  exp: { f: 'exp(x)', df: 'exp(x)' },
  log: { f: 'log(x)', df: 'T(1.0) / x' },
  abs: { f: 'abs(x)', df: 'sign(x)' },
  sign: { f: 'sign(x)', df: 'T(0.0)' },
  relu: { f: 'max(x, T(0.0))', df: 'select(T(0.0), T(1.0), x > T(0.0))' },
  sigmoid: { f: sigmoidOf, df: `${sigmoidOf} * (T(1.0) - ${sigmoidOf})` },
  silu: { f: `x * ${sigmoidOf}`, df: `${sigmoidOf} * (T(1.0) + x * (T(1.0) - ${sigmoidOf}))` },
  tanh: {
    f: 'tanh(clamp(x, T(-15.0), T(15.0)))',
    df: 'T(1.0) - tanh(clamp(x, T(-15.0), T(15.0))) * tanh(clamp(x, T(-15.0), T(15.0)))',
  },
} as const;

export type ElementwiseName = keyof typeof table;

function elementwise(name: string, f: string, df: string, x: Tensor): Tensor {
  const { device } = x;
  const wide = x.size % 4 === 0;
  const count = wide ? x.size / 4 : x.size;
  const constants = { T: wide ? 'vec4<f32>' : 'f32' };
  const y = device.empty(x.shape);
  const forward = kernel(name, `${forwardSource}\nfn f(x: T) -> T { return ${f}; }`, constants);
  device.run(forward, { x, y }, { count }, linearGrid(count));
  return differentiable(name, [x], y, (dy) => {
    const dx = device.empty(x.shape);
    const backward = kernel(
      `${name}-backward`,
      `${backwardSource}\nfn df(x: T) -> T { return ${df}; }`,
      constants,
    );
    device.run(backward, { x, dy, dx }, { count }, linearGrid(count));
    return [dx];
  });
}

const row = (name: ElementwiseName) => (x: Tensor) => elementwise(name, table[name].f, table[name].df, x);

export const negate = row('negate');
export const square = row('square');
export const sqrt = row('sqrt');
export const exp = row('exp');
export const log = row('log');
/** Its derivative at 0 is 0, as in PyTorch. */
export const abs = row('abs');
export const sign = row('sign');
/** Its derivative at 0 is 0, as in PyTorch. */
export const relu = row('relu');
export const sigmoid = row('sigmoid');
/** x·sigmoid(x), also called swish. */
export const silu = row('silu');
export const tanh = row('tanh');

/** min(max(x, low), high); the gradient passes where low ≤ x ≤ high, as in PyTorch. */
export function clamp(x: Tensor, low: number, high: number): Tensor {
  const [l, h] = [low, high].map((v) => `T(${v.toExponential()})`);
  return elementwise(
    `clamp(${low},${high})`,
    `clamp(x, ${l}, ${h})`,
    `select(T(0.0), T(1.0), (x >= ${l}) & (x <= ${h}))`,
    x,
  );
}

/** scale·x + shift with numbers known when the kernel is made. */
export function affine(x: Tensor, scale: number, shift = 0): Tensor {
  const s = `T(${scale.toExponential()})`;
  return elementwise(`affine(${scale},${shift})`, `x * ${s} + T(${shift.toExponential()})`, s, x);
}
