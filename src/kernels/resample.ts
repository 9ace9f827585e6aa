/**
 * Resampling of images [N,H,W,C]: StyleGAN's FIR filter [1,3,3,1] as NCSN++ uses it, and nearest neighbours.
 */
import { differentiable } from '../engine/autograd.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, type Tensor } from '../engine/tensor.ts';
import { windowSpread } from './pool-window.ts';
import source from './resample-fir.wgsl';

export interface UpfirdnOptions {
  /** Zeros are put between pixels so that they lie `up` apart, pixel first. Default 1. */
  readonly up?: number;
  /** Every `down`-th result is kept. Default 1. */
  readonly down?: number;
  /** Zeros before and after, on both axes; negative ones cut away. */
  readonly pad: readonly [before: number, after: number];
  /** Factor on the kernel, whose sum is 1. Default 1; up² keeps the brightness of an upsampled image. */
  readonly gain?: number;
}

/**
 * Zero-insert, pad, correlate with K = outer([1,3,3,1])/64·gain, subsample: StyleGAN2's upfirdn2d with that kernel.
 * [N,H,W,C] -> [N,OH,OW,C] with OH = floor((H·up + before + after − 4)/down) + 1.
 * @throws ShapeError when nothing is left
 */
export function upfirdn(x: Tensor, { up = 1, down = 1, pad, gain = 1 }: UpfirdnOptions): Tensor {
  checkFloats('upfirdn', { x });
  check(x.rank === 4, () => `upfirdn: [${x.shape}] is not [N,H,W,C]`);
  for (const n of [up, down])
    check(Number.isInteger(n) && n >= 1, () => `upfirdn: factor ${n} is not a whole number from 1`);
  check(pad.every(Number.isInteger), () => `upfirdn: pad [${pad}] is not of whole numbers`);
  const [before, after] = pad;
  const out = (n: number) => Math.floor((n * up + before + after - 4) / down) + 1;
  const [oh, ow] = [out(x.shape[1] as number), out(x.shape[2] as number)];
  check(
    oh >= 1 && ow >= 1,
    () => `upfirdn: [${x.shape}] with up ${up}, down ${down}, pad [${pad}] gives ${oh} x ${ow}`,
  );
  return fir(x, up, down, before, oh, ow, gain);
}

function fir(
  x: Tensor,
  up: number,
  down: number,
  before: number,
  oh: number,
  ow: number,
  gain: number,
): Tensor {
  const { device } = x;
  const [n, h, w, c] = x.shape as readonly [number, number, number, number];
  const y = device.empty([n, oh, ow, c]);
  const wide = c % 4 === 0;
  const channels = wide ? c / 4 : c;
  const count = n * oh * ow * channels;
  const k = kernel('upfirdn', source, { T: wide ? 'vec4<f32>' : 'f32', UP: up, DOWN: down });
  const taps = Math.ceil(4 / up) ** 2;
  const shift = Math.max(0, Math.ceil(before / up));
  const params = {
    count,
    channels,
    in_size: [h, w],
    out_size: [oh, ow],
    bias: shift * up - before,
    shift,
    gain,
  };
  device.run(k, { x, y }, params, linearGrid(count), { flops: 2 * taps * y.size });
  // y[o] takes x[i] with weight k[t] where o·down + t − before = i·up. Read the other way with t' = 3 − t, and k being
  // symmetric: i·up + t' − (3 − before) = o·down. So dx is dy with up and down exchanged and 3 − before zeros before.
  return differentiable('upfirdn', [x], y, (dy) => [fir(dy, down, up, 3 - before, h, w, gain)]);
}

/** Half the size: pad (1,1), correlate with K, stride 2 (`downsample_2d`). H -> floor(H/2); H, W ≥ 2. */
export function firDownsample(x: Tensor): Tensor {
  return upfirdn(x, { down: 2, pad: [1, 1] });
}

/** Twice the size: zero-insert, pad (2,1), correlate with 4K (`upsample_2d`). H -> 2H. */
export function firUpsample(x: Tensor): Tensor {
  return upfirdn(x, { up: 2, pad: [2, 1], gain: 4 });
}

/**
 * The filter before the 3×3 stride-2 convolution without padding of `conv_downsample_2d`: pad (2,2), correlate with
 * K, stride 1. H -> H + 1.
 */
export function firConvPad(x: Tensor): Tensor {
  return upfirdn(x, { pad: [2, 2] });
}

/** Each pixel repeated factor × factor times; torch.nn.functional.interpolate(mode='nearest'). */
export function nearestUpsample(x: Tensor, factor = 2): Tensor {
  check(x.rank === 4, () => `nearestUpsample: [${x.shape}] is not [N,H,W,C]`);
  check(
    Number.isInteger(factor) && factor >= 1,
    () => `nearestUpsample: factor ${factor} is not a whole number from 1`,
  );
  const [, h, w] = x.shape as readonly [number, number, number, number];
  return windowSpread(x, factor, factor, 1, h * factor, w * factor);
}
