import { InputError } from '../engine/errors.ts';

/** @param x row-major, of `count` images @throws InputError naming the first image that is not in [0, 1] */
export function checkPixels(name: string, x: Float32Array, count: number): void {
  const i = x.findIndex((v) => !(v >= 0 && v <= 1));
  if (i >= 0)
    throw new InputError(
      `${name}: image ${Math.floor(i / (x.length / count))} holds ${x[i]}; pixels must be in [0, 1], normalisation belongs into the model`,
    );
}
