import { differentiable } from '../engine/autograd.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import source from './broadcast-scale.wgsl';

/** factor·x. Unlike `affine` the number is no constant of the kernel: one pipeline serves every factor. */
export function scale(x: Tensor, factor: number): Tensor {
  check(x.dtype === 'f32', () => `scale: [${x.shape}] is ${x.dtype}, not f32`);
  const y = x.device.empty(x.shape);
  const wide = x.size % 4 === 0;
  const count = wide ? x.size / 4 : x.size;
  x.device.run(
    kernel('scale', source, { T: wide ? 'vec4<f32>' : 'f32' }),
    { x, y },
    { count, factor },
    linearGrid(count),
  );
  // dx = factor · dy
  return differentiable('scale', [x], y, (dy) => [scale(dy, factor)]);
}
