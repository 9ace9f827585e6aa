/** The data sets that commands know by name, and their test images. */
import { Option } from 'commander';
import { loadCifar10 } from '../data/cifar10.ts';
import { loadFashionMnist } from '../data/fashion-mnist.ts';
import { InputError } from '../engine/errors.ts';
import type { EvaluationImages } from '../eval/run.ts';

export const datasets = ['cifar10', 'fashion-mnist'] as const;
export type DatasetName = (typeof datasets)[number];
export const titles: Readonly<Record<DatasetName, string>> = {
  cifar10: 'CIFAR-10',
  'fashion-mnist': 'Fashion-MNIST',
};

export const datasetOption = (text: string) => new Option('--dataset <name>', text).choices([...datasets]);
export const dataOption = () =>
  new Option('--data <dir>', 'where its files lie; default where cmap data puts them, or the package’s own');

export interface DatasetChoice {
  readonly dataset: DatasetName;
  readonly data?: string;
}

/**
 * Images of the test set, or of another split.
 * @param choice their numbers, or how many of the first
 * @throws InputError when the files or images are not there
 */
export function loadImages(
  { dataset, data }: DatasetChoice,
  choice: ArrayLike<number> | number,
  split: 'test' | 'train' = 'test',
): EvaluationImages {
  const folder = data === undefined ? {} : { folder: data };
  const which = typeof choice === 'number' ? { count: choice } : { indices: choice };
  const found =
    dataset === 'cifar10'
      ? loadCifar10({ split, ...which, ...folder })
      : loadFashionMnist({ ...(split === 'train' ? { split } : {}), ...which, ...folder });
  const ids = typeof choice === 'number' ? found.labels.map((_, i) => i) : Array.from(choice);
  return { ...found, ids };
}

/** @throws InputError when it is below 1 */
export function checkCount(flag: string, count: number): void {
  if (count < 1) throw new InputError(`${flag} must be at least 1, got ${count}`);
}
