/** Space to channels and back, with the channel order of torch.nn.PixelUnshuffle. Both are permutations. */
import { tidy } from '../engine/autograd.ts';
import { check } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { reshape, transpose } from './shape.ts';

/**
 * [N,H,W,C] -> [N,H/p,W/p,C·p²]: y[n,h,w,(c·p + i)·p + j] = x[n,h·p+i,w·p+j,c], torch.nn.functional.pixel_unshuffle.
 * @throws ShapeError unless p divides H and W
 */
export function pixelUnshuffle(x: Tensor, p: number): Tensor {
  const [n, h, w, c] = x.shape as readonly [number, number, number, number];
  check(x.rank === 4, () => `pixelUnshuffle: [${x.shape}] is not [N,H,W,C]`);
  check(
    Number.isInteger(p) && p >= 1 && h % p === 0 && w % p === 0,
    () => `pixelUnshuffle: ${p} does not divide ${h} x ${w}`,
  );
  return tidy([x], () => {
    const blocks = reshape(x, [n, h / p, p, w / p, p, c]);
    return reshape(transpose(blocks, [0, 1, 3, 5, 2, 4]), [n, h / p, w / p, c * p * p]);
  });
}

/**
 * [N,H,W,C·p²] -> [N,H·p,W·p,C], the inverse of `pixelUnshuffle`; torch.nn.functional.pixel_shuffle.
 * @throws ShapeError unless p² divides the channels
 */
export function pixelShuffle(x: Tensor, p: number): Tensor {
  const [n, h, w, c] = x.shape as readonly [number, number, number, number];
  check(x.rank === 4, () => `pixelShuffle: [${x.shape}] is not [N,H,W,C]`);
  check(
    Number.isInteger(p) && p >= 1 && c % (p * p) === 0,
    () => `pixelShuffle: ${p}² does not divide ${c} channels`,
  );
  return tidy([x], () => {
    const blocks = reshape(x, [n, h, w, c / (p * p), p, p]);
    return reshape(transpose(blocks, [0, 1, 4, 2, 5, 3]), [n, h * p, w * p, c / (p * p)]);
  });
}
