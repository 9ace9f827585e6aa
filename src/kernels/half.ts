/** A tensor kept in 16 bits an element, where its memory counts for more than its last bits. */
import { differentiable } from '../engine/autograd.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, type Tensor } from '../engine/tensor.ts';
import load from './half-load.wgsl';
import store from './half-store.wgsl';

/**
 * Rounds x to binary16 (nearest, ties to even; what is beyond ±65504 becomes NaN) and keeps that alone.
 * @param x f32
 * @returns a function that brings it back as f32, the same bits each time; the gradient goes straight to x, as if
 *   nothing had been rounded
 * @throws ShapeError for x of another type
 */
export function halved(x: Tensor): () => Tensor {
  checkFloats('halved', { x });
  const { device, size, shape } = x;
  const words = Math.ceil(size / 2);
  const kept = device.empty([words], 'u32');
  device.run(kernel('half-store', store), { x, y: kept }, { size }, linearGrid(words));
  return () => {
    const y = device.empty(shape);
    device.run(kernel('half-load', load), { x: kept, y }, { size }, linearGrid(words));
    return differentiable('halved', [x], y, (dy) => [dy]);
  };
}
