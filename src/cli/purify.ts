/** `cmap purify IMAGE…`: purified images, votes and traces. */
import { basename, extname, join } from 'node:path';
import { Command } from 'commander';
import { type CmapOptions, paperCifar10 } from '../cmap/options.ts';
import { type Purified, type PurifyHooks, purify, type TraceEntry } from '../cmap/purify.ts';
import { classify, classifyEach, countVotes, type Vote } from '../cmap/vote.ts';
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import { imageFromFloats } from '../formats/image.ts';
import { channelsLast } from '../formats/layout.ts';
import { resolveWeights } from '../formats/manifest.ts';
import { writePng } from '../formats/png.ts';
import { loadClassifier, loadConsistencyModel, shippedNetwork } from '../models.ts';
import { checkWritable, ensureDirectory, writeFileAtomic } from '../report/files.ts';
import { progress } from '../report/progress.ts';
import type { LoadedClassifier, LoadedModel } from '../shipped.ts';
import { type DatasetName, datasetOption } from './datasets.ts';
import { nearest } from './figures.ts';
import { readImages } from './images.ts';
import {
  addNetworkOptions,
  batchOf,
  batchOption,
  checkImages,
  checkNetwork,
  loadNetwork,
  type NetworkOptions,
  readFloats,
  readImagesNpy,
  writeImagesNpy,
} from './networks.ts';
import {
  addCmapOptions,
  addCommonOptions,
  type CmapFlags,
  type CommonOptions,
  checkDistinct,
  cmapOptions,
  flagOf,
  maybeProfiled,
  openDevice,
} from './options.ts';

export interface PurifyOptions extends CommonOptions, CmapFlags {
  /** Made before the work starts; '' when nothing will be written. */
  out: string;
  dataset: DatasetName;
  /** Default those shipped for the data set. */
  model?: string;
  classifier?: string;
  batch?: number;
}

export interface PurifiedImage {
  readonly path: string;
  readonly undefended: number;
  readonly vote: Vote;
  /** Index of the purified image shown: of those that voted for the winner, the one closest to the input. */
  readonly best: number;
  readonly purified: Float32Array;
  readonly trace: Purified['trace'][number];
}

/** A batch that is done. */
export interface PurifiedImages {
  readonly device: Device;
  readonly model: LoadedModel;
  readonly classifier: LoadedClassifier;
  readonly images: PurifiedImage[];
  readonly seconds: number;
}

/** Images together: as many as make some 32 latents. */
const usualBatch = ({ k }: { readonly k: number }) => Math.max(1, Math.floor(32 / k));

/** Purifies image files, a batch at a time, and classifies them with and without the defence. */
export async function purifyFiles(
  paths: readonly string[],
  options: PurifyOptions,
  onBatch: (done: PurifiedImages) => void,
): Promise<void> {
  const cmap = cmapOptions(options);
  const batch = batchOf(options, usualBatch(cmap));
  const { dataset } = options;
  const names = {
    model: options.model ?? shippedNetwork(dataset, 'generator', 'name one by --model'),
    classifier: options.classifier ?? shippedNetwork(dataset, 'classifier', 'name one by --classifier'),
  };
  for (const name of Object.values(names)) resolveWeights(name);
  const device = await openDevice(options);
  const model = loadConsistencyModel(device, names.model);
  const classifier = loadClassifier(device, names.classifier);
  if (String(model.net.imageShape) !== String(classifier.net.imageShape)) {
    throw new InputError(
      `${model.name} makes images of [${model.net.imageShape}], ${classifier.name} classifies [${classifier.net.imageShape}]; choose a pair that fits`,
    );
  }
  const [height, width, channels] = model.net.imageShape;
  const all = await readImages(paths, [height, width, channels]);
  if (options.out) ensureDirectory(options.out);
  const size = height * width * channels;
  const bar = progress('purify', paths.length * cmap.iterations, { quiet: options.quiet });
  for (let from = 0; from < paths.length; from += batch) {
    const some = paths.slice(from, from + batch);
    const host = all.subarray(from * size, (from + some.length) * size);
    const start = performance.now();
    const before = from * cmap.iterations;
    const images = await maybeProfiled(device, options, () =>
      purifyBatch(some, host, model, classifier, cmap, {
        imageIds: some.map((_, i) => from + i),
        onCompile: (done, total) => bar.update(before, `compile ${done}/${total}`),
        onIteration: (done) => bar.update(before + some.length * done),
      }),
    );
    onBatch({ device, model, classifier, images, seconds: (performance.now() - start) / 1000 });
  }
  bar.stop();
}

async function purifyBatch(
  paths: readonly string[],
  host: Float32Array,
  model: LoadedModel,
  classifier: LoadedClassifier,
  cmap: CmapOptions,
  hooks: PurifyHooks,
): Promise<PurifiedImage[]> {
  const { device } = model.net;
  const shape = model.net.imageShape;
  const size = shape[0] * shape[1] * shape[2];
  const x = device.tensor(host, [paths.length, ...shape]);
  const undefended = await classify(classifier.net, x);
  const result = await purify(model.net, x, cmap, hooks);
  const labels = await classifyEach(classifier.net, result.images);
  const generated = await result.images.floats();
  for (const tensor of [x, result.images, result.latents]) tensor.dispose();
  return paths.map((path, i): PurifiedImage => {
    const input = host.subarray(i * size, (i + 1) * size);
    const each = labels[i] as number[];
    const vote = countVotes(each, classifier.net.classes);
    const all = generated.subarray(i * cmap.k * size, (i + 1) * cmap.k * size);
    const best = nearest(all, input, each, vote.label);
    return {
      path,
      undefended: undefended[i] as number,
      vote,
      best,
      purified: all.slice(best * size, (best + 1) * size),
      trace: result.trace[i] ?? [],
    };
  });
}

/** "Bag 3, Coat 1" */
export function describeVotes(vote: Vote, classes: readonly string[]): string {
  return vote.votes
    .map((count, label) => ({ count, label }))
    .filter(({ count }) => count > 0)
    .sort((a, b) => b.count - a.count || a.label - b.label)
    .map(({ count, label }) => `${classes[label]} ${count}`)
    .join(', ');
}

export function purifyCommand(): Command {
  const command = new Command('purify')
    .description(
      'Purify PNG or JPEG images (writes NAME.purified.png and NAME.json for each, prints the votes), or a .npy array.',
    )
    .argument('[image...]', 'PNG or JPEG files of the model’s size')
    .option('--out <dir>', 'where to write, for image files', 'out/purify')
    .addOption(datasetOption('whose shipped networks are taken, for image files').default('fashion-mnist'))
    .option('--model <name>', 'another shipped consistency model, for image files')
    .option('--classifier <name>', 'another shipped classifier, for image files')
    .option('--input <x.npy>', 'images (B, C, H, W) in [0, 1], instead of files; needs --net and --weights')
    .option('--init-latents <z0.npy>', 'starting latents (B, K, C, H, W) instead of random ones')
    .option('--trace <trace.json>', 'losses of each image and iteration')
    .option('--latents-out <z.npy>', 'final latents (B, K, C, H, W)')
    .option('--images-out <g.npy>', 'images of the last forward pass (B, K, C, H, W) in [0, 1]')
    .addOption(batchOption('images'));
  addCommonOptions(addCmapOptions(addNetworkOptions(command), paperCifar10));
  return command.action(async (paths: string[], options: PurifyOptions & ArrayOptions) => {
    if (options.input !== undefined) {
      if (paths.length > 0) throw new InputError(`${paths[0]}: give image files or --input, not both`);
      for (const name of ['out', 'dataset', 'model', 'classifier'])
        if (command.getOptionValueSource(name) === 'cli')
          throw new InputError(`${flagOf(name)} goes with image files; this is --input, an array of images`);
      return purifyArray(options.input, options);
    }
    const outputs = ['trace', 'latentsOut', 'imagesOut'] as const;
    const array = ['initLatents', ...outputs, 'net', 'netConfig', 'weights', 'prefix', 'recompute'] as const;
    const alone = array.find((name) => options[name] !== undefined);
    if (alone) {
      throw new InputError(`${flagOf(alone)} goes with --input, an array of images`);
    }
    if (paths.length === 0)
      throw new InputError('no images: name PNG or JPEG files, or an array with --input x.npy');
    return purifyPngs(paths, options);
  });
}

async function purifyPngs(paths: readonly string[], options: PurifyOptions): Promise<void> {
  const names = paths.map(nameOf);
  const twin = names.findIndex((name, i) => names.indexOf(name) !== i);
  if (twin >= 0)
    throw new InputError(
      `${paths[twin]}: two images are named ${names[twin]}; purify them into different --out folders`,
    );
  await purifyFiles(paths, options, (batch) => writeBatch(batch, options));
}

/** What is done is kept, whatever becomes of the images after it. */
function writeBatch(
  { device, model, classifier, images, seconds }: PurifiedImages,
  options: PurifyOptions,
): void {
  const [height, width, channels] = model.net.imageShape;
  for (const image of images) {
    const target = join(options.out, nameOf(image.path));
    writePng(`${target}.purified.png`, imageFromFloats(image.purified, height, width, channels as 1 | 3));
    const record = {
      image: image.path,
      label: image.vote.label,
      class: classifier.classes[image.vote.label],
      votes: image.vote.votes,
      undefended: { label: image.undefended, class: classifier.classes[image.undefended] },
      shown: image.best,
      options: cmapOptions(options),
      model: model.name,
      classifier: classifier.name,
      adapter: device.adapter.name,
      secondsAnImage: seconds / images.length,
      trace: image.trace,
    };
    writeFileAtomic(`${target}.json`, `${JSON.stringify(record, null, 1)}\n`);
    process.stdout.write(
      `${image.path}: ${describeVotes(image.vote, classifier.classes)} -> ${target}.purified.png\n`,
    );
  }
}

const nameOf = (path: string) => basename(path, extname(path));

interface ArrayOptions extends NetworkOptions {
  readonly input?: string;
  readonly initLatents?: string;
  readonly trace?: string;
  readonly latentsOut?: string;
  readonly imagesOut?: string;
  readonly batch?: number;
}

/** Images of a .npy file through any consistency model, a batch at a time. */
async function purifyArray(path: string, options: ArrayOptions & CmapFlags): Promise<void> {
  const cmap = cmapOptions(options);
  const images = readImagesNpy(path);
  const [n, height, width, channels] = images.shape;
  const outside = images.data.findIndex((value) => value < 0 || value > 1);
  if (outside >= 0) throw new InputError(`${path}: holds ${images.data[outside]}; images must lie in [0, 1]`);
  const size = height * width * channels;
  const batch = batchOf(options, usualBatch(cmap));
  const initial = options.initLatents === undefined ? null : readFloats(options.initLatents);
  const wanted = [n, cmap.k, channels, height, width];
  if (initial && String(initial.shape) !== String(wanted))
    throw new InputError(
      `${options.initLatents}: shape (${initial.shape.join(', ')}), wanted (B, K, C, H, W) = (${wanted.join(', ')})`,
    );
  checkDistinct(
    { '--input': path, '--init-latents': options.initLatents },
    { '--trace': options.trace, '--latents-out': options.latentsOut, '--images-out': options.imagesOut },
  );
  checkWritable(options.trace, options.latentsOut, options.imagesOut);
  checkNetwork(options);
  const device = await openDevice(options);
  const loaded = await loadNetwork(device, options);
  if (loaded.kind !== 'consistency')
    throw new InputError(
      `--net ${options.net}: a consistency model is wanted, this is a ${loaded.kind} network`,
    );
  if (loaded.edm)
    throw new InputError(`--weights ${options.weights}: an EDM denoiser; a consistency model is wanted`);
  if (loaded.net.unet.classes > 0)
    throw new InputError(
      `--net ${options.net}: purification takes an unconditional model, this one needs classes`,
    );
  checkImages(path, images, loaded.net.imageShape);
  const start = initial && channelsLast(initial.data, [channels, height, width]);
  const latents = new Float32Array(n * cmap.k * size);
  const generated = new Float32Array(n * cmap.k * size);
  const traces: TraceEntry[][] = [];
  const bar = progress('purify', n * cmap.iterations, { quiet: options.quiet });
  const each = cmap.k * size;
  for (let from = 0; from < n; from += batch) {
    const count = Math.min(batch, n - from);
    const x = device.tensor(images.data.subarray(from * size, (from + count) * size), [
      count,
      height,
      width,
      channels,
    ]);
    const z0 = start
      ? device.tensor(start.subarray(from * each, (from + count) * each), [
          count,
          cmap.k,
          height,
          width,
          channels,
        ])
      : undefined;
    const before = from * cmap.iterations;
    const result = await maybeProfiled(device, options, () =>
      purify(loaded.net, x, cmap, {
        latents: z0,
        imageIds: Array.from({ length: count }, (_, i) => from + i),
        onCompile: (done, total) => bar.update(before, `compile ${done}/${total}`),
        onIteration: (done) => bar.update(before + count * done),
      }),
    );
    latents.set(await result.latents.floats(), from * each);
    generated.set(await result.images.floats(), from * each);
    traces.push(...result.trace);
    for (const tensor of [x, result.latents, result.images]) tensor.dispose();
    z0?.dispose();
  }
  bar.stop();
  const shape = [n, cmap.k, height, width, channels];
  if (options.trace !== undefined) {
    const entries = traces.map((trace) =>
      trace.map(({ total, mae, ssim, constraint }) => ({ total, mae, ssim, constraint })),
    );
    writeFileAtomic(options.trace, `${JSON.stringify(entries)}\n`);
  }
  if (options.latentsOut !== undefined) writeImagesNpy(options.latentsOut, latents, shape);
  if (options.imagesOut !== undefined) writeImagesNpy(options.imagesOut, generated, shape);
  traces.forEach((trace, i) => {
    const last = trace.at(-1) as TraceEntry;
    process.stdout.write(
      `image ${i}: mae ${last.mae.toFixed(4)}, ssim ${last.ssim.toFixed(4)}, constraint ${last.constraint.toFixed(4)} after ${trace.length} iterations\n`,
    );
  });
}
