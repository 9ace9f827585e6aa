/** `cmap purify IMAGE…`: purified images, votes and traces. */
import { basename, extname, join } from 'node:path';
import { Command } from 'commander';
import { paperCifar10 } from '../cmap/options.ts';
import { type Purified, purify } from '../cmap/purify.ts';
import { classify, classifyEach, countVotes, type Vote } from '../cmap/vote.ts';
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import { imageFromFloats } from '../formats/image.ts';
import { writePng } from '../formats/png.ts';
import { type LoadedClassifier, type LoadedModel, loadClassifier, loadConsistencyModel } from '../models.ts';
import { ensureDirectory, writeFileAtomic } from '../report/files.ts';
import { progress } from '../report/progress.ts';
import { readImages } from './images.ts';
import {
  addCmapOptions,
  addCommonOptions,
  type CmapFlags,
  type CommonOptions,
  cmapOptions,
  maybeProfiled,
  openDevice,
} from './options.ts';

export interface PurifyOptions extends CommonOptions, CmapFlags {
  /** Made before the work starts; '' when nothing will be written. */
  out: string;
  model: string;
  classifier: string;
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

export interface PurifiedImages {
  readonly device: Device;
  readonly model: LoadedModel;
  readonly classifier: LoadedClassifier;
  readonly images: PurifiedImage[];
  readonly seconds: number;
}

/** Purifies PNG files together and classifies them with and without the defence. */
export async function purifyFiles(paths: readonly string[], options: PurifyOptions): Promise<PurifiedImages> {
  const cmap = cmapOptions(options);
  const device = await openDevice(options);
  const model = loadConsistencyModel(device, options.model);
  const classifier = loadClassifier(device, options.classifier);
  if (String(model.net.imageShape) !== String(classifier.net.imageShape)) {
    throw new InputError(
      `${options.model} makes images of [${model.net.imageShape}], ${options.classifier} classifies [${classifier.net.imageShape}]; choose a pair that fits`,
    );
  }
  const [height, width, channels] = model.net.imageShape;
  const host = readImages(paths, [height, width, channels]);
  if (options.out) ensureDirectory(options.out);
  const x = device.tensor(host, [paths.length, height, width, channels]);
  const undefended = await classify(classifier.net, x);
  const bar = progress('purify', cmap.iterations, { quiet: options.quiet });
  const start = performance.now();
  const result = await maybeProfiled(device, options, () =>
    purify(model.net, x, cmap, {
      onCompile: (done, total) => bar.update(0, `compile ${done}/${total}`),
      onIteration: (done) => bar.update(done),
    }),
  );
  bar.stop();
  const seconds = (performance.now() - start) / 1000;
  const labels = await classifyEach(classifier.net, result.images);
  const generated = await result.images.floats();
  const size = height * width * channels;
  const images = paths.map((path, i): PurifiedImage => {
    const input = host.subarray(i * size, (i + 1) * size);
    const each = labels[i] as number[];
    const vote = countVotes(each, classifier.net.classes);
    let best = 0;
    let least = Number.POSITIVE_INFINITY;
    for (let k = 0; k < cmap.k; k++) {
      if (each[k] !== vote.label) continue;
      const candidate = generated.subarray((i * cmap.k + k) * size, (i * cmap.k + k + 1) * size);
      const distance = candidate.reduce((sum, v, j) => sum + Math.abs(v - (input[j] as number)), 0);
      if (distance < least) [best, least] = [k, distance];
    }
    const at = (i * cmap.k + best) * size;
    return {
      path,
      undefended: undefended[i] as number,
      vote,
      best,
      purified: generated.slice(at, at + size),
      trace: result.trace[i] ?? [],
    };
  });
  return { device, model, classifier, images, seconds };
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
    .description('Purify PNG images: writes NAME.purified.png and NAME.json for each, prints the votes.')
    .argument('<image...>', 'PNG files of the model’s size')
    .option('--out <dir>', 'where to write', 'out/purify')
    .option('--model <name>', 'shipped consistency model', 'fashion-mnist-consistency')
    .option('--classifier <name>', 'shipped classifier', 'fashion-mnist-wrn');
  addCommonOptions(addCmapOptions(command, paperCifar10));
  return command.action(async (paths: string[], options: PurifyOptions) => {
    const names = paths.map((path) => basename(path, extname(path)));
    const twin = names.findIndex((name, i) => names.indexOf(name) !== i);
    if (twin >= 0)
      throw new InputError(
        `${paths[twin]}: two images are named ${names[twin]}; purify them into different --out folders`,
      );
    const { device, model, classifier, images, seconds } = await purifyFiles(paths, options);
    const [height, width, channels] = model.net.imageShape;
    images.forEach((image, i) => {
      const target = join(options.out, names[i] as string);
      writePng(`${target}.purified.png`, imageFromFloats(image.purified, height, width, channels as 1 | 3));
      const record = {
        image: image.path,
        label: image.vote.label,
        class: classifier.classes[image.vote.label],
        votes: image.vote.votes,
        undefended: { label: image.undefended, class: classifier.classes[image.undefended] },
        shown: image.best,
        options: cmapOptions(options),
        model: options.model,
        classifier: options.classifier,
        adapter: device.adapter.name,
        secondsAnImage: seconds / images.length,
        trace: image.trace,
      };
      writeFileAtomic(`${target}.json`, `${JSON.stringify(record, null, 1)}\n`);
      process.stdout.write(
        `${image.path}: ${describeVotes(image.vote, classifier.classes)} -> ${target}.purified.png\n`,
      );
    });
  });
}
