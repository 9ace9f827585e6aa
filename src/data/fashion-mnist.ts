/** Fashion-MNIST: the first 1000 test images, which come with the package, and the whole set. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../engine/errors.ts';
import { unpackIdx } from '../formats/idx.node.ts';
import { parseIdx } from '../formats/idx.ts';
import { packageRoot } from '../formats/package-root.ts';
import { readInput } from '../formats/read.ts';
import { type DownloadableFile, dataFolder } from './published.ts';
import { type Choice, chooseImages } from './subset.ts';

export { className, fashionMnistClasses } from './labels.ts';

export interface LabelledImages {
  /** [N, H, W, C] in [0, 1], row-major. */
  readonly images: Float32Array;
  /** Class numbers from 0 on; up to 9 for Fashion-MNIST and CIFAR-10. */
  readonly labels: readonly number[];
  readonly shape: readonly [number, number, number, number];
}

/** A published file and what is in it, which others pack again: Debian's gzip header has another time. */
export interface FashionMnistFile extends DownloadableFile {
  /** SHA-256 of the IDX data, unpacked. */
  readonly sha256: string;
}

const published = (name: string, size: number, md5: string, sha256: string): FashionMnistFile => ({
  name,
  size,
  md5,
  sha256,
  url: `http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/${name}`,
});

/** Images and labels of a split. */
export interface FashionMnistFiles {
  readonly train: readonly [FashionMnistFile, FashionMnistFile];
  readonly test: readonly [FashionMnistFile, FashionMnistFile];
}

export const fashionMnistFiles: FashionMnistFiles = {
  train: [
    published(
      'train-images-idx3-ubyte.gz',
      26421880,
      '8d4fb7e6c68d591d4c3dfef9ec88bf0d',
      'c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888',
    ),
    published(
      'train-labels-idx1-ubyte.gz',
      29515,
      '25c81989df183df01b3e8a0aad5dffbe',
      'bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9',
    ),
  ],
  test: [
    published(
      't10k-images-idx3-ubyte.gz',
      4422102,
      'bef4ecab320f06d8554ea6380940ec79',
      '5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b',
    ),
    published(
      't10k-labels-idx1-ubyte.gz',
      5148,
      'bb300cfdad3c16e7a12a480ee83cd310',
      '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34',
    ),
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
  const found = readFashionMnistFiles(folder ?? dataFolder('fashion-mnist'), pair);
  const [images, labels] = found.map(({ path, content }) => ({ path, bytes: content }));
  return fromIdx(images as ReadFile, labels as ReadFile, selection, `the ${split ?? 'test'} split`);
}

interface ReadFile {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** A file as it lies there, and unpacked. */
interface PackedFile extends ReadFile {
  readonly content: Uint8Array;
}

/**
 * Files of the published content, from a folder or from where torchvision keeps them below it.
 * @throws InputError
 */
export function readFashionMnistFiles(folder: string, files: readonly FashionMnistFile[]): PackedFile[] {
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
    const content = unpackIdx(bytes, path);
    const sha256 = createHash('sha256').update(content).digest('hex');
    if (sha256 !== file.sha256)
      throw new InputError(
        `${path}: changed or damaged: the sha256 of its content is ${sha256}, as published it is ${file.sha256}; cmap data fashion-mnist gets it again`,
      );
    return { path, bytes, content };
  });
}

/** @throws InputError when images and labels are not a pair of 28 x 28 bytes and 0 to 9 */
export function fromIdx(
  { path: imagesPath, bytes: imagesFile }: ReadFile,
  { path: labelsPath, bytes: labelsFile }: ReadFile,
  choice: Choice,
  holder: string,
): LabelledImages {
  const images = parseIdx(unpackIdx(imagesFile, imagesPath), imagesPath);
  const labels = parseIdx(unpackIdx(labelsFile, labelsPath), labelsPath);
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
