/** The data sets that commands know, and their images. */
import { basename } from 'node:path';
import { Option } from 'commander';
import { loadCifar10 } from '../data/cifar10.ts';
import { type LabelledImages, loadFashionMnist } from '../data/fashion-mnist.ts';
import { ImageFolder } from '../data/image-folder.ts';
import { cifar10Classes, fashionMnistClasses } from '../data/labels.ts';
import type { Choice } from '../data/subset.ts';
import { InputError } from '../engine/errors.ts';
import type { EvaluationImages } from '../eval/run.ts';
import { parseInteger } from './options.ts';

/** Networks for these are shipped. */
export const datasets = ['cifar10', 'fashion-mnist'] as const;
export type DatasetName = (typeof datasets)[number];
export const titles: Readonly<Record<DatasetName, string>> = {
  cifar10: 'CIFAR-10',
  'fashion-mnist': 'Fashion-MNIST',
};

const imageFolder = 'image-folder';
export const anyDataset = [...datasets, imageFolder] as const;
export type AnyDatasetName = (typeof anyDataset)[number];

export const datasetOption = (text: string, names: readonly string[] = datasets) =>
  new Option('--dataset <name>', text).choices([...names]);
export const dataOption = () =>
  new Option('--data <dir>', 'where its files lie; default where cmap data puts them, or the package’s own');
export const imageSizeOption = () =>
  new Option(
    '--image-size <n>',
    'side of the square that images of a folder are brought to; default 64',
  ).argParser(parseInteger);

export interface DatasetChoice {
  readonly dataset: AnyDatasetName;
  /** Of image-folder the one that holds val/CLASS/FILE, or val.X/CLASS/FILE as ImageNet-100 is published; train likewise. */
  readonly data?: string;
  /** Side of the square that images of a folder are brought to; default 64. */
  readonly imageSize?: number;
}

/** A data set's test split, or another. */
interface OpenedDataset {
  /** In records and tables; two folders have two names. */
  readonly title: string;
  /** Names by label. */
  readonly classes: readonly string[];
  /** Images of the paper's test set; null where it has none of this kind. */
  readonly paperCount: number | null;
  /** @throws InputError when the files or images are not there */
  load(choice: Choice): LabelledImages | Promise<LabelledImages>;
}

/** @throws InputError when a folder is not there */
export function openDataset(
  { dataset, data: folder, imageSize: side = 64 }: DatasetChoice,
  split: 'test' | 'train' = 'test',
): OpenedDataset {
  if (dataset === 'cifar10')
    return {
      title: dataset,
      classes: cifar10Classes,
      paperCount: 10000,
      load: (choice) => loadCifar10({ split, ...choice, folder }),
    };
  if (dataset === 'fashion-mnist')
    return {
      title: dataset,
      classes: fashionMnistClasses,
      paperCount: null,
      load: (choice) => loadFashionMnist({ split: split === 'train' ? split : undefined, ...choice, folder }),
    };
  const images = new ImageFolder(folder ?? '', { split: split === 'test' ? 'val' : 'train' });
  return {
    title: `${basename(images.root)} ${side}x${side}`,
    // Of "tench, Tinca tinca" the first.
    classes: images.names.map((name) => name.replace(/,.*/, '')),
    get paperCount() {
      return images.length;
    },
    load: (choice) => images.load(side, choice),
  };
}

/**
 * Images of the test set, or of another split.
 * @param choice their numbers, or how many of the first
 * @throws InputError when the files or images are not there
 */
export async function loadImages(
  of: DatasetChoice,
  choice: ArrayLike<number> | number,
  split: 'test' | 'train' = 'test',
): Promise<EvaluationImages> {
  const which = typeof choice === 'number' ? { count: choice } : { indices: choice };
  const found = await openDataset(of, split).load(which);
  const ids = typeof choice === 'number' ? found.labels.map((_, i) => i) : Array.from(choice);
  return { ...found, ids };
}

/** @throws InputError where settings do not belong to the data set */
export function checkDataset({ dataset, data, imageSize }: DatasetChoice): void {
  if (dataset === imageFolder && data === undefined)
    throw new InputError(
      `--dataset ${imageFolder} wants --data DIR, which holds val/CLASS/FILE.png, .jpg or .jpeg`,
    );
  if (imageSize === undefined) return;
  if (dataset !== imageFolder)
    throw new InputError(`--image-size is for --dataset ${imageFolder}; ${dataset} has a size of its own`);
  if (imageSize < 1) throw new InputError(`--image-size must be at least 1, got ${imageSize}`);
}

/** @throws InputError when it is below 1 */
export function checkCount(flag: string, count: number): void {
  if (count < 1) throw new InputError(`${flag} must be at least 1, got ${count}`);
}
