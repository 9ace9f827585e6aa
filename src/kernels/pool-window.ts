/** Sums over windows and their adjoint; average pooling and nearest-neighbour resampling are these two. */
import { differentiable } from '../engine/autograd.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import spreadSource from './pool-spread.wgsl';
import sumSource from './pool-sum.wgsl';

function run(
  name: string,
  source: string,
  x: Tensor,
  size: number,
  stride: number,
  factor: number,
  oh: number,
  ow: number,
): Tensor {
  const { device } = x;
  const [n, h, w, c] = x.shape as readonly [number, number, number, number];
  const y = device.empty([n, oh, ow, c]);
  const wide = c % 4 === 0;
  const channels = wide ? c / 4 : c;
  const count = n * oh * ow * channels;
  const params = { count, channels, in_size: [h, w], out_size: [oh, ow], size, stride, factor };
  device.run(kernel(name, source, { T: wide ? 'vec4<f32>' : 'f32' }), { x, y }, params, linearGrid(count));
  return y;
}

/** y[n,o,p,c] = factor · Σ x over rows o·stride .. + size and columns p·stride .. + size, which must lie inside x. */
export function windowSum(
  x: Tensor,
  size: number,
  stride: number,
  factor: number,
  oh: number,
  ow: number,
): Tensor {
  const [, h, w] = x.shape as readonly [number, number, number, number];
  const y = run('window-sum', sumSource, x, size, stride, factor, oh, ow);
  return differentiable('window-sum', [x], y, (dy) => [windowSpread(dy, size, stride, factor, h, w)]);
}

/** The adjoint: y [N,h,w,C] where each pixel gets factor · the sum of all x[o,p] whose window holds it. */
export function windowSpread(
  x: Tensor,
  size: number,
  stride: number,
  factor: number,
  h: number,
  w: number,
): Tensor {
  const [, oh, ow] = x.shape as readonly [number, number, number, number];
  const y = run('window-spread', spreadSource, x, size, stride, factor, h, w);
  return differentiable('window-spread', [x], y, (dy) => [windowSum(dy, size, stride, factor, oh, ow)]);
}
