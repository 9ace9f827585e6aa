import { InputError } from '../engine/errors.ts';

/** @param x row-major, of `count` images @throws InputError naming the first image that is not in [0, 1] */
export function checkPixels(name: string, x: Float32Array, count: number): void {
  for (const [i, v] of x.entries()) {
    if (!(v >= 0 && v <= 1))
      throw new InputError(
        `${name}: image ${Math.floor(i / (x.length / count))} holds ${v}; pixels must be in [0, 1], normalisation belongs into the model`,
      );
  }
}
