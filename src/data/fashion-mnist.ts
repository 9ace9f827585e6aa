/** The first 1000 test images of Fashion-MNIST, which come with the package. */
import { join } from 'node:path';
import { InputError } from '../engine/errors.ts';
import { readIdx } from '../formats/idx.ts';
import { packageRoot } from '../formats/package-root.ts';

export { className, fashionMnistClasses } from './labels.ts';

export interface LabelledImages {
  /** [N, H, W, C] in [0, 1], row-major. */
  readonly images: Float32Array;
  /** 0..9 each. */
  readonly labels: readonly number[];
  readonly shape: readonly [number, number, number, number];
}

export interface Selection {
  /** How many images; default all from `offset` on. */
  readonly count?: number;
  /** The first image; default 0. */
  readonly offset?: number;
  /** Where the two files lie; default data/fashion-mnist of the package. */
  readonly folder?: string;
}

/**
 * Images of 28 x 28 x 1 with their labels.
 * @throws InputError when a file is missing or damaged, or holds fewer images than asked for
 */
export function loadFashionMnist({ count, offset = 0, folder }: Selection = {}): LabelledImages {
  const where = folder ?? join(packageRoot(), 'data', 'fashion-mnist');
  const imagesPath = join(where, 't10k-images-first1000.idx3-ubyte.gz');
  const labelsPath = join(where, 't10k-labels-first1000.idx1-ubyte.gz');
  const images = readIdx(imagesPath);
  const labels = readIdx(labelsPath);
  const [n, h, w] = images.shape as [number, number, number];
  if (images.shape.length !== 3 || h !== 28 || w !== 28 || !(images.data instanceof Uint8Array)) {
    throw new InputError(`${imagesPath}: ${images.shape.join(' x ')} is not N x 28 x 28 of bytes`);
  }
  if (labels.shape.length !== 1 || labels.shape[0] !== n || !(labels.data instanceof Uint8Array)) {
    throw new InputError(`${labelsPath}: ${labels.shape.join(' x ')} labels do not belong to ${n} images`);
  }
  const wrong = labels.data.findIndex((label) => label > 9);
  if (wrong >= 0)
    throw new InputError(`${labelsPath}: label ${labels.data[wrong]} of image ${wrong} is not 0 to 9`);
  const wanted = count ?? n - offset;
  if (
    !Number.isInteger(offset) ||
    !Number.isInteger(wanted) ||
    offset < 0 ||
    wanted < 1 ||
    offset + wanted > n
  ) {
    throw new InputError(
      `Fashion-MNIST: ${wanted} images from ${offset} on are not there; the package holds ${n}, 0 to ${n - 1}`,
    );
  }
  const size = h * w;
  return {
    images: Float32Array.from(
      images.data.subarray(offset * size, (offset + wanted) * size),
      (value) => value / 255,
    ),
    labels: [...labels.data.subarray(offset, offset + wanted)],
    shape: [wanted, h, w, 1],
  };
}
