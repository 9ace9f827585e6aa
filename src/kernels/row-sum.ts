/**
 * What the losses of single images share.
 *
 * Sums over an image in two dispatches without barriers or atomics: a loss's own kernel leaves `partsOf(elements)`
 * partial sums a row, each over every parts-th element; `rowSum` adds them. The order is fixed, so the bits are too.
 */
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import source from './row-sum.wgsl';

/** Partial sums a row: at most 256, at least four elements each. */
export function partsOf(elements: number): number {
  return Math.max(1, Math.min(256, Math.ceil(elements / 4)));
}

/** scale · Σ over the last axis, without a gradient: parts [..., P] -> [...]; they are given back. */
export function rowSum(parts: Tensor, scale: number): Tensor {
  const { device } = parts;
  const count = parts.shape.at(-1) as number;
  const y = device.empty(parts.shape.slice(0, -1));
  device.run(kernel('row-sum', source), { parts, y }, { rows: y.size, count, scale }, linearGrid(y.size));
  parts.dispose();
  return y;
}

/** Components of a T. */
export type Lanes = 1 | 2 | 4;

/** WGSL `total(v: T) -> f32`, the sum of a T's components, to append to a kernel whose T is f32 or a vector. */
export function totalSource(lanes: Lanes): string {
  const sum = { 1: 'v', 2: 'v.x + v.y', 4: '(v.x + v.y) + (v.z + v.w)' }[lanes];
  return `\nfn total(v: T) -> f32 { return ${sum}; }`;
}

/**
 * K of images x [B·K, ...] compared with targets y [B, ...].
 * @throws ShapeError unless the images are f32, of equal shape, and N is a multiple of B
 */
export function targetGroup(name: string, x: Tensor, y: Tensor): number {
  check(
    x.dtype === 'f32' && y.dtype === 'f32',
    () => `${name}: images are ${x.dtype} and ${y.dtype}, wanted f32`,
  );
  const [n, ...image] = x.shape;
  const [b, ...target] = y.shape;
  check(x.size > 0 && x.rank >= 2, () => `${name}: images [${x.shape}] have no elements; wanted [N, ...]`);
  check(
    n !== undefined && b !== undefined && n % b === 0 && String(image) === String(target),
    () => `${name}: images [${x.shape}] do not fit targets [${y.shape}]: wanted [B·K, ...] and [B, ...]`,
  );
  return n / b;
}
