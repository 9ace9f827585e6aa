/** Mean absolute error of each image (the first term of Eq. 10). */
import { differentiable } from '../engine/autograd.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { sizeOf, type Tensor } from '../engine/tensor.ts';
import source from './mae.wgsl';
import backwardSource from './mae-backward.wgsl';
import backwardTargetSource from './mae-backward-target.wgsl';
import { partsOf, rowSum, targetGroup, totalSource } from './row-sum.ts';

/**
 * mean |x − y| over all axes but the first: torch's `(x - y).abs().flatten(1).mean(1)`, with gradient 0 where x = y.
 * @param x [N, ...]
 * @param y [N, ...], or [B, ...] with N = B·K: image n is compared with target floor(n / K), without copies
 * @returns [N]
 * @throws ShapeError
 */
export function mae(x: Tensor, y: Tensor): Tensor {
  const { device } = x;
  const group = targetGroup('mae', x, y);
  const [rows] = x.shape as [number];
  const elements = sizeOf(x.shape.slice(1));
  const wide = elements % 4 === 0;
  const constants = { T: wide ? 'vec4<f32>' : 'f32' };
  const length = wide ? elements / 4 : elements;
  const parts = device.empty([rows, partsOf(length)]);
  const params = { rows, length, parts: partsOf(length), group };
  device.run(
    kernel('mae', source + totalSource(wide ? 4 : 1), constants),
    { x, y, parts },
    params,
    linearGrid(parts.size),
  );

  // d/dx = sign(x − y) / elements; d/dy is its negative, summed over the K images of a target.
  return differentiable('mae', [x, y], rowSum(parts, 1 / elements), (dy, [needsX, needsY]) => {
    const scale = 1 / elements;
    let dx: Tensor | null = null;
    let dtarget: Tensor | null = null;
    if (needsX) {
      dx = device.empty(x.shape);
      const count = rows * length;
      device.run(
        kernel('mae-backward', backwardSource, constants),
        { x, y, dy, dx },
        { count, length, group, scale },
        linearGrid(count),
      );
    }
    if (needsY) {
      dtarget = device.empty(y.shape);
      const count = (rows / group) * length;
      device.run(
        kernel('mae-backward-target', backwardTargetSource, constants),
        { x, y, dy, dtarget },
        { count, length, group, scale },
        linearGrid(count),
      );
    }
    return [dx, dtarget];
  });
}
