/** Images between files and tensors. */
import { InputError } from '../engine/errors.ts';
import { imageToFloats, toGray, toRgb } from '../formats/image.ts';
import { readPng } from '../formats/png.ts';

/**
 * PNG files as one array [N, H, W, C] in [0, 1]; colours become gray, or gray RGB, as the model takes them.
 * @throws InputError when a file is no PNG or has another size than the model takes
 */
export function readImages(paths: readonly string[], shape: readonly [number, number, number]): Float32Array {
  const [height, width, channels] = shape;
  const size = height * width * channels;
  const all = new Float32Array(paths.length * size);
  paths.forEach((path, i) => {
    const found = readPng(path);
    const image = channels === 1 ? toGray(found) : toRgb(found);
    if (image.width !== width || image.height !== height) {
      throw new InputError(
        `${path}: is ${image.width}×${image.height}, the model takes ${width}×${height}; resize it first`,
      );
    }
    all.set(imageToFloats(image), i * size);
  });
  return all;
}
