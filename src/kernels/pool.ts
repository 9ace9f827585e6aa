/** Pooling of images [N,H,W,C]. */
import { differentiable } from '../engine/autograd.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, type Tensor } from '../engine/tensor.ts';
import maxSource from './pool-max.wgsl';
import maxBackwardSource from './pool-max-backward.wgsl';
import { windowSum } from './pool-window.ts';
import { mean } from './reduce.ts';

function checkWindow(name: string, x: Tensor, size: number, stride: number): void {
  check(x.rank === 4, () => `${name}: [${x.shape}] is not [N,H,W,C]`);
  checkFloats(name, { x });
  for (const n of [size, stride])
    check(Number.isInteger(n) && n >= 1, () => `${name}: ${n} is not a whole number from 1`);
}

/**
 * The mean of each size × size window, no padding; torch.nn.functional.avg_pool2d.
 * [N,H,W,C] -> [N,OH,OW,C], OH = floor((H − size)/stride) + 1.
 * @throws ShapeError when the window is larger than the image
 */
export function averagePool(x: Tensor, size: number, stride = size): Tensor {
  checkWindow('averagePool', x, size, stride);
  const [, h, w] = x.shape as readonly [number, number, number, number];
  check(size <= h && size <= w, () => `averagePool: window ${size} is larger than the image, ${h} x ${w}`);
  const out = (n: number) => Math.floor((n - size) / stride) + 1;
  return windowSum(x, size, stride, 1 / (size * size), out(h), out(w));
}

/**
 * The maximum of each size × size window; torch.nn.functional.max_pool2d. Padding never wins; among equal maxima
 * the first in row-major order takes the whole gradient, as in PyTorch. NaN is not propagated.
 * [N,H,W,C] -> [N,OH,OW,C], OH = floor((H + 2·padding − size)/stride) + 1.
 * @throws ShapeError when padding exceeds size/2 or the window the padded image
 */
export function maxPool(x: Tensor, size: number, stride = size, padding = 0): Tensor {
  checkWindow('maxPool', x, size, stride);
  check(
    Number.isInteger(padding) && padding >= 0 && 2 * padding <= size,
    () => `maxPool: padding ${padding} is not from 0 to half the window ${size}`,
  );
  const { device } = x;
  const [n, h, w, c] = x.shape as readonly [number, number, number, number];
  const out = (d: number) => Math.floor((d + 2 * padding - size) / stride) + 1;
  const [oh, ow] = [out(h), out(w)];
  check(
    oh >= 1 && ow >= 1,
    () => `maxPool: window ${size} is larger than the image, ${h} x ${w} padded by ${padding}`,
  );
  const y = device.empty([n, oh, ow, c]);
  const index = device.empty(y.shape, 'u32');
  const wide = c % 4 === 0;
  const channels = wide ? c / 4 : c;
  const constants = wide ? { T: 'vec4<f32>', I: 'vec4<u32>' } : { T: 'f32', I: 'u32' };
  const shapes = { channels, in_size: [h, w], out_size: [oh, ow], size, stride, padding };
  const count = n * oh * ow * channels;
  device.run(
    kernel('maxPool', maxSource, constants),
    { x, y, index },
    { count, ...shapes },
    linearGrid(count),
  );
  // dx = Σ dy over the windows whose maximum it is.
  differentiable('maxPool', [x], y, (dy) => {
    const dx = device.empty(x.shape);
    const all = n * h * w * channels;
    const k = kernel('maxPool-backward', maxBackwardSource, constants);
    device.run(k, { dy, index, dx }, { count: all, ...shapes }, linearGrid(all));
    return [dx];
  });
  if (!y.node) index.dispose();
  return y;
}

/** The mean over the image: [N,H,W,C] -> [N,C]. */
export function globalAveragePool(x: Tensor): Tensor {
  check(x.rank === 4, () => `globalAveragePool: [${x.shape}] is not [N,H,W,C]`);
  return mean(x, [1, 2]);
}
