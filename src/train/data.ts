/** The data sets of training, 8 bits a value. */
import { type Cifar10Selection, loadCifar10 } from '../data/cifar10.ts';
import { type LabelledImages, loadFashionMnist } from '../data/fashion-mnist.ts';
import { ImageFolder } from '../data/image-folder.ts';
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
      const of = (split: Cifar10Selection['split']) =>
        packed(dataset, loadCifar10({ split, folder, ...(split === 'train' ? choice : {}) }));
      return { train: of('train'), test: tested ? of('test') : null, classes: 10 };
    }
    default: {
      const images = new ImageFolder(data, { split: 'train' });
      const train = packed(dataset, await images.load(side, choice));
      const test = tested ? packed(dataset, await new ImageFolder(data, { split: 'val' }).load(side)) : null;
      return { train, test, classes: images.classes.length };
    }
  }
}

function packed(name: string, { images, labels, shape }: LabelledImages): ImageSet {
  // Uint8Array.from would first list all values, which V8 cannot for the 154 million of CIFAR-10.
  const bytes = new Uint8Array(images.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = Math.round(255 * (images[i] as number));
  return { name, images: bytes, labels, shape };
}
