/** The data sets of training, 8 bits a value, where the threads that make batches can read them. */
import { type Cifar10Selection, loadCifar10Bytes } from '../data/cifar10.ts';
import { type LabelledImages, loadFashionMnist } from '../data/fashion-mnist.ts';
import { ImageFolder, readRgb } from '../data/image-folder.ts';
import { type Choice, chooseImages } from '../data/subset.ts';
import { evaluationTransform } from '../data/transforms.ts';
import { InputError } from '../engine/errors.ts';
import type { ImageSet } from './batches.ts';
import type { TrainConfig } from './config.ts';

export interface TrainingData {
  readonly train: ImageSet;
  /** Held out, for classifiers; null where there is none. */
  readonly test: ImageSet | null;
  readonly classes: number;
}

/**
 * @param side of the network's images, to which those of a folder are brought
 * @throws InputError when files are missing or damaged
 */
export async function loadTrainingData(config: TrainConfig, side: number): Promise<TrainingData> {
  const { dataset, data, count, task } = config;
  const folder = data === '' ? undefined : data;
  const choice = count > 0 ? { count } : {};
  const tested = task === 'classifier';
  switch (dataset) {
    case 'fashion-mnist-1000':
      return { train: packed(dataset, loadFashionMnist(choice)), test: null, classes: 10 };
    case 'fashion-mnist': {
      const of = (split: 'train' | 'test') =>
        packed(dataset, loadFashionMnist({ split, folder, ...(split === 'train' ? choice : {}) }));
      return { train: of('train'), test: tested ? of('test') : null, classes: 10 };
    }
    case 'cifar10': {
      const of = (split: Cifar10Selection['split']) => {
        const set = loadCifar10Bytes({ split, folder, ...(split === 'train' ? choice : {}) });
        return { name: dataset, ...set, images: shared(set.images) };
      };
      return { train: of('train'), test: tested ? of('test') : null, classes: 10 };
    }
    default: {
      const images = new ImageFolder(data, { split: 'train' });
      const held = tested ? new ImageFolder(data, { split: 'val' }) : null;
      if (held) checkClasses(images, held);
      const test = held ? fromFolder(held, side) : null;
      return { train: fromFolder(images, side, choice), test, classes: images.classes.length };
    }
  }
}

/** Labels count the folders of classes, so both splits must have the same. @throws InputError */
function checkClasses(train: ImageFolder, held: ImageFolder): void {
  const strange = [...new Set([...train.classes, ...held.classes])].find(
    (name) => !train.classes.includes(name) || !held.classes.includes(name),
  );
  if (strange !== undefined)
    throw new InputError(
      `${train.root}: class ${strange} is in ${train.classes.includes(strange) ? 'train alone' : 'val alone'}; both want the same classes (${train.classes.length} and ${held.classes.length} are there)`,
    );
}

/** Zeros that all threads can read and write. */
export const sharedBytes = (length: number) => new Uint8Array(new SharedArrayBuffer(length));

/** The bytes where all threads can read them: themselves, or a copy. */
export function shared(bytes: Uint8Array): Uint8Array {
  if (bytes.buffer instanceof SharedArrayBuffer) return bytes;
  const copy = sharedBytes(bytes.length);
  copy.set(bytes);
  return copy;
}

function packed(name: string, { images, labels, shape }: LabelledImages): ImageSet {
  const bytes = sharedBytes(images.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = Math.round(255 * (images[i] as number));
  return { name, images: bytes, labels, shape };
}

function fromFolder(folder: ImageFolder, side: number, choice: Choice = {}): ImageSet {
  const chosen = chooseImages(folder.root, 'the folder', folder.length, choice);
  return {
    name: 'image-folder',
    images: sharedBytes(chosen.length * side * side * 3),
    labels: chosen.map((index) => folder.label(index)),
    shape: [chosen.length, side, side, 3],
    files: { paths: chosen.map((index) => folder.path(index)), decoded: sharedBytes(chosen.length) },
  };
}

/** Brings images that are files into memory, where they stay; two threads that do so at once write the same. @throws InputError for a damaged one */
export async function decodeFiles(
  { images, shape, files }: ImageSet,
  indices: readonly number[],
): Promise<void> {
  if (!files) return;
  const [, side] = shape;
  const size = side * side * 3;
  for (const i of indices) {
    if (files.decoded[i] === 1) continue;
    const floats = evaluationTransform(await readRgb(files.paths[i] as string), side);
    for (let p = 0; p < size; p++) images[i * size + p] = Math.round(255 * (floats[p] as number));
    files.decoded[i] = 1;
  }
}
