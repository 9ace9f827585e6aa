/**
 * A data set as a folder of images, as torchvision's ImageFolder reads it: ROOT/CLASS/FILE.png, .jpg or .jpeg. A split
 * is ROOT/train or ROOT/val, or the parts ROOT/train.X1, ROOT/train.X2, ... in which ImageNet-100 is published.
 * Files are listed when a number of them is first asked for, and decoded when asked for.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { InputError } from '../engine/errors.ts';
import { type Image, maxFile, toRgb } from '../formats/image.ts';
import { decodeJpeg, isJpeg } from '../formats/jpeg.ts';
import { decodeOpaquePng, isPng } from '../formats/png.ts';
import { cannotRead, readInput, readJson } from '../formats/read.ts';
import type { LabelledImages } from './fashion-mnist.ts';
import { type Choice, chooseImages } from './subset.ts';
import { evaluationTransform } from './transforms.ts';

export interface ImageFolderOptions {
  readonly split?: 'train' | 'val';
  /**
   * Labels count the class folders in the order of their names (`name`, the default, as torchvision does), or in
   * that of Labels.json in ROOT.
   */
  readonly order?: 'name' | 'Labels.json';
}

/** Sorted by code points, as Python sorts. */
const inOrder = (names: string[]) => names.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));

/** The order of a sorted walk: by folder, then by name. */
function inWalk(a: string, b: string): number {
  const split = (path: string) => [dirname(path), basename(path)] as const;
  const [folderA, nameA] = split(a);
  const [folderB, nameB] = split(b);
  if (folderA !== folderB) return folderA < folderB ? -1 : 1;
  return nameA < nameB ? -1 : 1;
}

function entries(folder: string) {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    throw cannotRead(folder, error);
  }
}

export class ImageFolder {
  /** Names of the class folders, by label. */
  readonly classes: readonly string[];
  /** Names to show, by label: those of Labels.json where it is there, else those of the folders. */
  readonly names: readonly string[];
  /** The folders that hold class folders. */
  private readonly parts: readonly string[];
  private files: { path: string; label: number }[] | null = null;

  /** @throws InputError when there is no such folder, or classes and Labels.json do not fit */
  constructor(
    readonly root: string,
    { split, order = 'name' }: ImageFolderOptions = {},
  ) {
    this.parts = split ? partsOf(root, split) : [root];
    const hasFolders = (part: string) =>
      entries(part)
        .filter((entry) => isFolder(part, entry) && !entry.name.startsWith('.'))
        .map(({ name }) => name);
    const found = inOrder([...new Set(this.parts.flatMap(hasFolders))]);
    if (found.length === 0)
      throw new InputError(`${root}: holds no class folders; ROOT/CLASS/FILE.png, .jpg or .jpeg is wanted`);
    const splits = found.filter((name) => /^(train|val)(\.|$)/.test(name));
    if (!split && splits.length > 0)
      throw new InputError(`${root}: holds ${splits.join(', ')}, which are no classes; say which split`);
    const labelsPath = join(root, 'Labels.json');
    const labels = existsSync(labelsPath) ? readLabels(labelsPath) : null;
    if (order === 'name') this.classes = found;
    else {
      if (!labels)
        throw new InputError(`${labelsPath}: there is no such file; take the order 'name' instead`);
      this.classes = Object.keys(labels);
      const stranger = found.find((name) => !Object.hasOwn(labels, name));
      if (stranger !== undefined)
        throw new InputError(`${labelsPath}: does not name the class folder ${stranger}`);
    }
    this.names = this.classes.map(
      (name) => (labels && Object.hasOwn(labels, name) ? labels[name] : name) as string,
    );
  }

  /** How many images; lists the files. @throws InputError for a class without images */
  get length(): number {
    return this.list().length;
  }

  /** @param index of 0..length - 1 */
  path(index: number): string {
    return this.at(index).path;
  }

  label(index: number): number {
    return this.at(index).label;
  }

  /** RGB of 8 bits. @throws InputError */
  image(index: number): Promise<Image> {
    return readRgb(this.path(index));
  }

  /**
   * Images through the evaluation transform, with their labels.
   * @param size of the square that is cut out; 64 for ImageNet-100
   * @throws InputError
   */
  async load(size: number, choice: Choice = {}): Promise<LabelledImages> {
    const chosen = chooseImages(this.root, 'the folder', this.length, choice);
    const images = new Float32Array(chosen.length * size * size * 3);
    for (const [i, index] of chosen.entries())
      images.set(evaluationTransform(await this.image(index), size), i * size * size * 3);
    return {
      images,
      labels: chosen.map((index) => this.label(index)),
      shape: [chosen.length, size, size, 3],
    };
  }

  private at(index: number): { path: string; label: number } {
    const file = this.list()[index];
    if (!file)
      throw new InputError(`${this.root}: image ${index} is not there; the folder holds ${this.length}`);
    return file;
  }

  private list(): { path: string; label: number }[] {
    this.files ??= this.classes.flatMap((name, label) => {
      const found = this.parts.flatMap((part) => {
        const folder = join(part, name);
        return existsSync(folder)
          ? imagesBelow(folder, '').map((file) => ({ file, path: join(folder, file) }))
          : [];
      });
      if (found.length === 0)
        throw new InputError(
          `${join(this.parts[0] as string, name)}: holds no .png, .jpg or .jpeg; fill or remove the class folder`,
        );
      found.sort((a, b) => inWalk(a.file, b.file));
      return found.map(({ path }) => ({ path, label }));
    });
    return this.files;
  }
}

function isFolder(
  part: string,
  entry: { name: string; isDirectory(): boolean; isSymbolicLink(): boolean },
): boolean {
  if (!entry.isSymbolicLink()) return entry.isDirectory();
  return statSync(join(part, entry.name), { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** ROOT/train, or ROOT/train.X1 and so on. @throws InputError */
function partsOf(root: string, split: string): string[] {
  const all = entries(root).filter((entry) => isFolder(root, entry));
  const parts = all.map(({ name }) => name).filter((name) => name === split || name.startsWith(`${split}.`));
  if (parts.length === 0)
    throw new InputError(
      `${root}: holds no folder ${split} (nor ${split}.X1, ...); name the folder above it`,
    );
  return inOrder(parts).map((name) => join(root, name));
}

function imagesBelow(folder: string, below: string): string[] {
  return entries(join(folder, below)).flatMap((entry) => {
    const name = below ? `${below}/${entry.name}` : entry.name;
    if (entry.isDirectory()) return imagesBelow(folder, name);
    return /\.(png|jpe?g)$/i.test(name) && !entry.name.startsWith('.') ? [name] : [];
  });
}

/** { "n01440764": "tench, Tinca tinca", ... } */
function readLabels(path: string): Record<string, string> {
  const labels = readJson(path);
  if (
    typeof labels !== 'object' ||
    labels === null ||
    Array.isArray(labels) ||
    !Object.values(labels).every((name) => typeof name === 'string')
  )
    throw new InputError(`${path}: is no object from class folders to names`);
  return labels as Record<string, string>;
}

/**
 * A PNG or JPEG file, told by its first bytes whatever its name says (ImageNet has PNG files named .JPEG), as RGB:
 * the pixels of PIL's `Image.open(path).convert('RGB')`.
 * @throws InputError
 */
export async function readRgb(path: string): Promise<Image> {
  const file = readInput(path, maxFile);
  if (isJpeg(file)) return toRgb(await decodeJpeg(file, path));
  if (isPng(file)) return toRgb(decodeOpaquePng(file, path));
  throw new InputError(
    `${path}: neither a PNG nor a JPEG; its ${file.length} bytes begin with neither's mark`,
  );
}
