/** Images between files and tensors. */
import { InputError } from '../engine/errors.ts';
import { type Image, imageToFloats, maxFile, toGray, toRgb } from '../formats/image.ts';
import { decodeJpeg, isJpeg } from '../formats/jpeg.ts';
import { decodePng, isPng } from '../formats/png.ts';
import { readInput } from '../formats/read.ts';

/**
 * PNG and JPEG files as one array [N, H, W, C] in [0, 1]; colours become gray, or gray RGB, as the model takes them, what is
 * transparent is laid over white.
 * @throws InputError when a file is none of these or has another size than the model takes
 */
export async function readImages(
  paths: readonly string[],
  shape: readonly [number, number, number],
): Promise<Float32Array> {
  const [height, width, channels] = shape;
  const size = height * width * channels;
  const all = new Float32Array(paths.length * size);
  for (const [i, path] of paths.entries()) {
    const found = await readImage(path);
    const image = channels === 1 ? toGray(found) : toRgb(found);
    if (image.width !== width || image.height !== height) {
      throw new InputError(
        `${path}: is ${image.width}×${image.height}, the model takes ${width}×${height}; resize it first`,
      );
    }
    all.set(imageToFloats(image), i * size);
  }
  return all;
}

/** Told by its first bytes, whatever its name says. */
async function readImage(path: string): Promise<Image> {
  const file = readInput(path, maxFile);
  if (isPng(file)) return decodePng(file, path);
  if (isJpeg(file)) return decodeJpeg(file, path);
  throw new InputError(`${path}: neither a PNG nor a JPEG`);
}
