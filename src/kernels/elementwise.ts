/**
 * Functions of one number, applied to every element: y = f(x), dx = f'(x) dy. One row a function; the expressions
 * are WGSL in x of type T, which is f32 or vec4<f32>, and in two numbers a and b of type f32.
 *
 * Traps that the expressions avoid: tanh is NaN at ±100 on SwiftShader and may be 1e-5 off anywhere by WGSL's rules, and by exp alone it
 * would cancel near 0, where it is a series; exp overflows above 88; bounds swallow a NaN, which is seen only in its bits.
 */
import { differentiable } from '../engine/autograd.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, type Tensor } from '../engine/tensor.ts';
import forwardSource from './elementwise.wgsl';
import backwardSource from './elementwise-backward.wgsl';

/** f, but NaN of NaN. */
const orNaN = (f: string) => `select(${f}, x, (bitcast<U>(x) & U(0x7fffffffu)) > U(0x7f800000u))`;
const sigmoidOf = orNaN('(T(1.0) / (T(1.0) + exp(-clamp(x, T(-80.0), T(80.0)))))');
const tanhOf = orNaN(
  'select(T(1.0) - T(2.0) / (T(1.0) + exp(clamp(2.0 * x, T(-80.0), T(80.0)))), ' +
    'x * (T(1.0) - x * x * (T(1.0 / 3.0) - x * x * (T(2.0 / 15.0) - x * x * T(17.0 / 315.0)))), abs(x) < T(0.2))',
);

const table = {
  negate: { f: '-x', df: 'T(-1.0)' },
  square: { f: 'x * x', df: '2.0 * x' },
  sqrt: { f: 'sqrt(x)', df: '0.5 / sqrt(x)' },
  exp: { f: orNaN('exp(x)'), df: orNaN('exp(x)') },
  // On SwiftShader log of a negative number is that of its magnitude, and log and exp of NaN are numbers.
  log: { f: orNaN('select(log(x), sqrt(x), x < T(0.0))'), df: 'T(1.0) / x' },
  abs: { f: 'abs(x)', df: 'sign(x)' },
  sign: { f: 'sign(x)', df: 'T(0.0)' },
  // A NaN stays one, which max would take for 0.
  relu: { f: 'select(x, T(0.0), x < T(0.0))', df: 'select(T(0.0), T(1.0), x > T(0.0))' },
  sigmoid: { f: sigmoidOf, df: `${sigmoidOf} * (T(1.0) - ${sigmoidOf})` },
  silu: { f: `x * ${sigmoidOf}`, df: `${sigmoidOf} * (T(1.0) + x * (T(1.0) - ${sigmoidOf}))` },
  tanh: { f: tanhOf, df: `T(1.0) - ${tanhOf} * ${tanhOf}` },
  clamp: { f: orNaN('clamp(x, T(a), T(b))'), df: 'select(T(0.0), T(1.0), (x >= T(a)) & (x <= T(b)))' },
  affine: { f: 'x * a + b', df: 'T(a)' },
} as const;

export type ElementwiseName = keyof typeof table;

function elementwise(name: ElementwiseName, x: Tensor, a = 0, b = 0): Tensor {
  const { device } = x;
  checkFloats(name, { x });
  const wide = x.size % 4 === 0;
  const params = { count: wide ? x.size / 4 : x.size, a, b };
  const types = wide ? { T: 'vec4<f32>', U: 'vec4<u32>' } : { T: 'f32', U: 'u32' };
  const grid = linearGrid(params.count);
  const append = (source: string, expression: 'f' | 'df') =>
    `${source}\nfn ${expression}(x: T) -> T { let a = params.a; let b = params.b; return ${table[name][expression]}; }`;
  const y = device.empty(x.shape);
  device.run(kernel(name, append(forwardSource, 'f'), types), { x, y }, params, grid);
  return differentiable(name, [x], y, (dy) => {
    const dx = device.empty(x.shape);
    device.run(kernel(`${name}-backward`, append(backwardSource, 'df'), types), { x, dy, dx }, params, grid);
    return [dx];
  });
}

const row = (name: ElementwiseName) => (x: Tensor) => elementwise(name, x);

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

/** min(max(x, low), high), NaN of NaN; the gradient passes where low ≤ x ≤ high, as in PyTorch. */
export function clamp(x: Tensor, low: number, high: number): Tensor {
  return elementwise('clamp', x, low, high);
}

/** scale·x + shift. */
export function affine(x: Tensor, scale: number, shift = 0): Tensor {
  return elementwise('affine', x, scale, shift);
}
