/** Fashion-MNIST: the first 1000 test images, which come with the package, and the whole set. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../engine/errors.ts';
import { parseIdx } from '../formats/idx.ts';
import { packageRoot } from '../formats/package-root.ts';
import { readInput } from '../formats/read.ts';
import { checkPublished, type DownloadableFile, dataFolder } from './published.ts';
import { type Choice, chooseImages } from './subset.ts';

export { className, fashionMnistClasses } from './labels.ts';

export interface LabelledImages {
  /** [N, H, W, C] in [0, 1], row-major. */
  readonly images: Float32Array;
  /** Class numbers from 0 on; up to 9 for Fashion-MNIST and CIFAR-10. */
  readonly labels: readonly number[];
  readonly shape: readonly [number, number, number, number];
}

const published = (name: string, size: number, md5: string): DownloadableFile => ({
  name,
  size,
  md5,
  url: `http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/${name}`,
});

/** Images and labels of a split. */
export interface FashionMnistFiles {
  readonly train: readonly [DownloadableFile, DownloadableFile];
  readonly test: readonly [DownloadableFile, DownloadableFile];
}

export const fashionMnistFiles: FashionMnistFiles = {
  train: [
    published('train-images-idx3-ubyte.gz', 26421880, '8d4fb7e6c68d591d4c3dfef9ec88bf0d'),
    published('train-labels-idx1-ubyte.gz', 29515, '25c81989df183df01b3e8a0aad5dffbe'),
  ],
  test: [
    published('t10k-images-idx3-ubyte.gz', 4422102, 'bef4ecab320f06d8554ea6380940ec79'),
    published('t10k-labels-idx1-ubyte.gz', 5148, 'bb300cfdad3c16e7a12a480ee83cd310'),
  ],
};

export interface FashionMnistSelection extends Choice {
  /**
   * `train` has 60,000 images, `test` 10,000. Without split and folder the first 1000 test images are read, which
   * come with the package; with a folder the default is test.
   */
  readonly split?: 'train' | 'test';
  /** Where the published files lie; default where `cmap data fashion-mnist` puts them. */
  readonly folder?: string;
}

/**
 * Images of 28 x 28 x 1 with their labels, in the published order.
 * @throws InputError when a file is missing or damaged, or holds fewer images than asked for
 */
export function loadFashionMnist(
  selection: FashionMnistSelection = {},
  files = fashionMnistFiles,
): LabelledImages {
  const { split, folder } = selection;
  if (split === undefined && folder === undefined) {
    const shipped = (name: string) => {
      const path = join(packageRoot(), 'data', 'fashion-mnist', name);
      return { path, bytes: readInput(path) };
    };
    const images = shipped('t10k-images-first1000.idx3-ubyte.gz');
    const labels = shipped('t10k-labels-first1000.idx1-ubyte.gz');
    return fromIdx(images, labels, selection, 'the package');
  }
  const pair = files[split ?? 'test'];
  if (!pair) throw new InputError(`Fashion-MNIST: split must be train or test, got '${split}'`);
  const [images, labels] = readFashionMnistFiles(folder ?? dataFolder('fashion-mnist'), pair);
  return fromIdx(images, labels, selection, `the ${split ?? 'test'} split`);
}

interface ReadFile {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/**
 * Published files as they are, checked, from a folder or from where torchvision keeps them below it.
 * @throws InputError
 */
export function readFashionMnistFiles<Files extends readonly DownloadableFile[]>(
  folder: string,
  files: Files,
): { [index in keyof Files]: ReadFile } {
  const places = [folder, join(folder, 'raw'), join(folder, 'FashionMNIST', 'raw')];
  const place = places.find((place) => files.every(({ name }) => existsSync(join(place, name))));
  if (!place) {
    const missing = existsSync(folder) ? '' : 'there is no such folder; ';
    const names = files.map(({ name }) => name).join(' and ');
    throw new InputError(
      `${folder}: ${missing}Fashion-MNIST is not there: no ${names}, there or in raw/ or FashionMNIST/raw/; cmap data fashion-mnist gets it`,
    );
  }
  return files.map((file) => {
    const path = join(place, file.name);
    const bytes = readInput(path);
    checkPublished(bytes, path, file, 'cmap data fashion-mnist gets it again');
    return { path, bytes };
  }) as { [index in keyof Files]: ReadFile };
}

/** @throws InputError when images and labels are not a pair of 28 x 28 bytes and 0 to 9 */
export function fromIdx(
  { path: imagesPath, bytes: imagesFile }: ReadFile,
  { path: labelsPath, bytes: labelsFile }: ReadFile,
  choice: Choice,
  holder: string,
): LabelledImages {
  const images = parseIdx(imagesFile, imagesPath);
  const labels = parseIdx(labelsFile, labelsPath);
  const [n, h, w] = images.shape as [number, number, number];
  const { data } = images;
  if (images.shape.length !== 3 || h !== 28 || w !== 28 || !(data instanceof Uint8Array)) {
    throw new InputError(`${imagesPath}: ${images.shape.join(' x ')} is not N x 28 x 28 of bytes`);
  }
  if (labels.shape.length !== 1 || labels.shape[0] !== n || !(labels.data instanceof Uint8Array)) {
    throw new InputError(`${labelsPath}: ${labels.shape.join(' x ')} labels do not belong to ${n} images`);
  }
  const wrong = labels.data.findIndex((label) => label > 9);
  if (wrong >= 0)
    throw new InputError(`${labelsPath}: label ${labels.data[wrong]} of image ${wrong} is not 0 to 9`);
  const chosen = chooseImages('Fashion-MNIST', holder, n, choice);
  const size = h * w;
  const floats = new Float32Array(chosen.length * size);
  chosen.forEach((index, i) => {
    for (let p = 0; p < size; p++) floats[i * size + p] = (data[index * size + p] as number) / 255;
  });
  return {
    images: floats,
    labels: chosen.map((index) => labels.data[index] as number),
    shape: [chosen.length, h, w, 1],
  };
}
