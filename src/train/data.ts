/** The data sets of training, 8 bits a value. */
import { type Cifar10Selection, loadCifar10Bytes } from '../data/cifar10.ts';
import { type LabelledImages, loadFashionMnist } from '../data/fashion-mnist.ts';
import { ImageFolder } from '../data/image-folder.ts';
import { type Choice, chooseImages } from '../data/subset.ts';
import { evaluationTransform } from '../data/transforms.ts';
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
      const of = (split: Cifar10Selection['split']) => ({
        name: dataset,
        ...loadCifar10Bytes({ split, folder, ...(split === 'train' ? choice : {}) }),
      });
      return { train: of('train'), test: tested ? of('test') : null, classes: 10 };
    }
    default: {
      const images = new ImageFolder(data, { split: 'train' });
      const test = tested ? fromFolder(new ImageFolder(data, { split: 'val' }), side) : null;
      return { train: fromFolder(images, side, choice), test, classes: images.classes.length };
    }
  }
}

function packed(name: string, { images, labels, shape }: LabelledImages): ImageSet {
  // Uint8Array.from would first list all values.
  const bytes = new Uint8Array(images.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = Math.round(255 * (images[i] as number));
  return { name, images: bytes, labels, shape };
}

/** The images of a folder, each decoded when it is first needed and then kept. */
function fromFolder(folder: ImageFolder, side: number, choice: Choice = {}): ImageSet {
  const chosen = chooseImages(folder.root, 'the folder', folder.length, choice);
  const size = side * side * 3;
  const images = new Uint8Array(chosen.length * size);
  const known = new Set<number>();
  return {
    name: 'image-folder',
    images,
    labels: chosen.map((index) => folder.label(index)),
    shape: [chosen.length, side, side, 3],
    decode: async (indices) => {
      for (const i of indices) {
        if (known.has(i)) continue;
        const floats = evaluationTransform(await folder.image(chosen[i] as number), side);
        for (let p = 0; p < size; p++) images[i * size + p] = Math.round(255 * (floats[p] as number));
        known.add(i);
      }
    },
  };
}
