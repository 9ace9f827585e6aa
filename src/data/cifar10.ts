/**
 * CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 x 3 (Krizhevsky 2009). Three published forms are read:
 * the binary batches, the Python pickles, and the archive of either. A batch is checked in its binary form, whatever
 * it came from, so that all three give the same bytes: 10,000 records of a label and 32 x 32 red, green, blue.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../engine/errors.ts';
import { NumpyArray, unpickle } from '../formats/pickle.ts';
import { readInput } from '../formats/read.ts';
import { readMembers } from './archive.ts';
import type { LabelledImages } from './fashion-mnist.ts';
import { checkPublished, type DownloadableFile, dataFolder, type PublishedFile } from './published.ts';
import { type Choice, chooseImages } from './subset.ts';

export { cifar10Classes } from './labels.ts';

export type Split = 'train' | 'test';

const pixels = 32 * 32;
const record = 1 + 3 * pixels;
const classes = 10;

/** Names, sizes and sums of a data set in this layout. */
export interface Cifar10Files {
  /** Images a batch. */
  readonly records: number;
  /** Batches in their order, in binary form; `name` without ".bin", which is also the name of the pickle. */
  readonly batches: Readonly<Record<Split, readonly PublishedFile[]>>;
  /** What is downloaded. */
  readonly archive: DownloadableFile;
}

const batch = (name: string, md5: string): PublishedFile => ({ name, md5, size: 10000 * record });

/** The archive's sum is the one its page states; those of the batches are of the files in it. */
export const cifar10Files: Cifar10Files = {
  records: 10000,
  batches: {
    train: [
      batch('data_batch_1', '5dd7e06a14cb22eb9f671a540d1b7c25'),
      batch('data_batch_2', '5ea93a67294ea407fff1d09f752e9692'),
      batch('data_batch_3', '942cd6a4bcdd0dd3c604fbe906cb4421'),
      batch('data_batch_4', 'ae636b3ba5c66a11e91e8cb52e771fcb'),
      batch('data_batch_5', '53f37980c15c3d472c316c40844f3f0d'),
    ],
    test: [batch('test_batch', '803d5f7f4d78ea53de84dbe85f74fb6d')],
  },
  archive: {
    name: 'cifar-10-binary.tar.gz',
    url: 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz',
    size: 170052171,
    md5: 'c32a1d4ab5d03f1284b67883e8d87530',
  },
};

export interface Cifar10Selection extends Choice {
  readonly split: Split;
  /** Where the files lie, in any of the published forms; default where `cmap data cifar10` puts them. */
  readonly folder?: string;
}

/**
 * Images of 32 x 32 x 3 with their labels, in the published order.
 * @throws InputError when files are missing, or not as published, or hold fewer images than asked for
 */
export function loadCifar10(selection: Cifar10Selection, files = cifar10Files): LabelledImages {
  const { images: bytes, labels, shape } = loadCifar10Bytes(selection, files);
  const images = new Float32Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) images[i] = (bytes[i] as number) / 255;
  return { images, labels, shape };
}

/** As `loadCifar10` in a quarter of its memory. @returns images of 8 bits, [N, 32, 32, 3] */
export function loadCifar10Bytes(
  selection: Cifar10Selection,
  files = cifar10Files,
): Omit<LabelledImages, 'images'> & { readonly images: Uint8Array } {
  const { split, folder = dataFolder('cifar10') } = selection;
  const all = files.batches[split];
  if (!all) throw new InputError(`CIFAR-10: split must be train or test, got '${split}'`);
  const n = all.length * files.records;
  const chosen = chooseImages('CIFAR-10', `the ${split} split`, n, selection);
  const batchOf = (index: number) => all[Math.floor(index / files.records)] as PublishedFile;
  const bytes = readCifar10Batches(folder, [...new Set(chosen.map(batchOf))], files);
  const images = new Uint8Array(chosen.length * 3 * pixels);
  const labels = chosen.map((index, i) => {
    const { name } = batchOf(index);
    const from = (index % files.records) * record;
    const content = bytes.get(name) as Uint8Array;
    for (let p = 0, to = i * 3 * pixels; p < pixels; p++)
      for (let c = 0; c < 3; c++) images[to++] = content[from + 1 + c * pixels + p] as number;
    return content[from] as number;
  });
  return { images, labels, shape: [chosen.length, 32, 32, 3] };
}

/** A published form of the batches: which files it is made of, and how they become binary batches. */
interface Form {
  /** The files of these batches below the folder; the first place where all are there is taken. */
  places(names: readonly string[]): string[][];
  read(paths: readonly string[], batches: readonly PublishedFile[], records: number): Uint8Array[];
}

const binary = (name: string) => `cifar-10-batches-bin/${name}.bin`;
const pickled = (name: string) => `cifar-10-batches-py/${name}`;

const forms: readonly Form[] = [
  {
    places: (names) => [names.map((name) => `${name}.bin`), names.map(binary)],
    read: (paths, batches) => paths.map((path, i) => readInput(path, batches[i]?.size)),
  },
  {
    places: (names) => [[...names], names.map(pickled)],
    read: (paths, batches, records) =>
      paths.map((path, i) =>
        fromPickle(readInput(path, mostPickled(batches[i] as PublishedFile)), path, records),
      ),
  },
  {
    places: () => [['cifar-10-binary.tar.gz']],
    read: ([path], batches) => fromArchive(path as string, batches, binary, ({ size }) => size),
  },
  {
    places: () => [['cifar-10-python.tar.gz']],
    read: ([path], batches, records) =>
      fromArchive(path as string, batches, pickled, mostPickled).map((bytes, i) =>
        fromPickle(bytes, `${path}: ${pickled((batches[i] as PublishedFile).name)}`, records),
      ),
  },
];

/** A pickle also holds the names of the images. */
const mostPickled = ({ size }: PublishedFile) => 2 * size;

function fromArchive(
  path: string,
  batches: readonly PublishedFile[],
  memberOf: (name: string) => string,
  most: (file: PublishedFile) => number,
): Uint8Array[] {
  const wanted = new Map(batches.map((file) => [memberOf(file.name), most(file)]));
  const found = readMembers(path, wanted);
  return [...wanted.keys()].map((name) => {
    const bytes = found.get(name);
    if (!bytes) throw new InputError(`${path}: has no ${name} or is cut before its end; get it again`);
    return bytes;
  });
}

/**
 * The binary form of batches, checked against the published sums, by name.
 * @throws InputError naming the folder and what was looked for
 */
export function readCifar10Batches(
  folder: string,
  batches: readonly PublishedFile[],
  files = cifar10Files,
): Map<string, Uint8Array> {
  const names = batches.map(({ name }) => name);
  for (const form of forms) {
    for (const place of form.places(names)) {
      const paths = place.map((path) => join(folder, path));
      if (!paths.every((path) => existsSync(path))) continue;
      const found = form.read(paths, batches, files.records);
      return checked(found, batches, (i) => paths[i] ?? `${paths[0]}: ${names[i]}`);
    }
  }
  const missing = existsSync(folder) ? '' : 'there is no such folder; ';
  const looked = names.map((name) => `${name}.bin or ${name}`).join(', ');
  throw new InputError(
    `${folder}: ${missing}CIFAR-10 is not there: wanted are ${looked}, there or in cifar-10-batches-bin/ or cifar-10-batches-py/, or cifar-10-binary.tar.gz or cifar-10-python.tar.gz; cmap data cifar10 gets it`,
  );
}

/** As `readCifar10Batches`, from the archive of binary batches. @throws InputError */
export function readCifar10Archive(path: string, batches: readonly PublishedFile[]): Map<string, Uint8Array> {
  const found = fromArchive(path, batches, binary, ({ size }) => size);
  return checked(found, batches, (i) => `${path}: ${batches[i]?.name}`);
}

function checked(
  found: readonly Uint8Array[],
  batches: readonly PublishedFile[],
  where: (i: number) => string,
): Map<string, Uint8Array> {
  return new Map(
    found.map((bytes, i) => {
      const file = batches[i] as PublishedFile;
      checkPublished(bytes, where(i), file, 'cmap data cifar10 gets it again');
      checkLabels(bytes, where(i));
      return [file.name, bytes];
    }),
  );
}

/** @throws InputError when a label is not 0 to 9 */
export function checkLabels(batch: Uint8Array, where: string): void {
  if (batch.length === 0 || batch.length % record !== 0)
    throw new InputError(`${where}: ${batch.length} bytes are no whole records of ${record}`);
  for (let at = 0; at < batch.length; at += record) {
    if ((batch[at] as number) >= classes)
      throw new InputError(`${where}: label ${batch[at]} of image ${at / record} is not 0 to 9`);
  }
}

/**
 * A Python batch, { data: uint8 [records, 3072], labels: list, ... }, in binary form.
 * @throws InputError
 */
export function fromPickle(file: Uint8Array, where: string, records: number): Uint8Array {
  const content = unpickle(file, where);
  const get = (key: string) => (content instanceof Map ? (content.get(key) ?? undefined) : undefined);
  const [data, labels] = [get('data'), get('labels')];
  if (!(data instanceof NumpyArray) || !Array.isArray(labels))
    throw new InputError(
      `${where}: no CIFAR-10 batch: a dict of an array 'data' and a list 'labels' is wanted`,
    );
  const { shape, data: values } = data.array(where);
  if (
    !(values instanceof Uint8Array) ||
    shape.length !== 2 ||
    shape[0] !== records ||
    shape[1] !== 3 * pixels
  ) {
    throw new InputError(
      `${where}: 'data' is ${shape.join(' x ')} of ${data.dtype}, not ${records} x ${3 * pixels} of u1`,
    );
  }
  if (labels.length !== records)
    throw new InputError(`${where}: ${labels.length} labels do not belong to ${records} images`);
  const bytes = new Uint8Array(records * record);
  labels.forEach((label, i) => {
    if (!Number.isInteger(label) || label < 0 || label >= classes)
      throw new InputError(`${where}: label ${String(label)} of image ${i} is not 0 to 9`);
    bytes[i * record] = label;
    bytes.set(values.subarray(i * 3 * pixels, (i + 1) * 3 * pixels), i * record + 1);
  });
  return bytes;
}
