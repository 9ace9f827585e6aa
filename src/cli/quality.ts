/** `cmap quality`: samples of the generator, their distance to real images, and restored images. */
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { spread } from '../data/subset.ts';
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import { sizeOf } from '../engine/tensor.ts';
import { frechetDistance } from '../eval/frechet.ts';
import { featureMoments, imagesOf, restore, samplesOf } from '../eval/quality.ts';
import { imageFromFloats } from '../formats/image.ts';
import { readManifest } from '../formats/manifest.ts';
import { ensureDirectory, writeFileAtomic } from '../report/files.ts';
import { gridToPng } from '../report/grid.ts';
import { progress } from '../report/progress.ts';
import { formatProportion, wilson } from '../report/statistics.ts';
import { formatTable } from '../report/table.ts';
import {
  type AnyDatasetName,
  anyDataset,
  checkCount,
  checkDataset,
  dataOption,
  datasetOption,
  imageSizeOption,
  loadImages,
  openDataset,
} from './datasets.ts';
import { loadNetwork } from './networks.ts';
import { addCommonOptions, type CommonOptions, flagOf, openDevice, parseInteger } from './options.ts';
import { cmapSettings, defaultBatch, openSubject, type Subject, sha256 } from './subject.ts';

interface QualityFlags extends CommonOptions {
  readonly dataset: AnyDatasetName;
  readonly data?: string;
  readonly imageSize?: number;
  readonly model?: string;
  readonly generatorWeights?: string;
  readonly generatorConfig?: string;
  readonly classifier?: string;
  readonly weights?: string;
  readonly features?: string;
  readonly featuresNet: string;
  readonly count: number;
  readonly restore: number;
  readonly iterations: readonly number[];
  readonly k?: number;
  readonly seed: number;
  readonly batch?: number;
  readonly out: string;
}

/** Samples in the picture. */
const pictured = 64;

const parseList = (text: string) => text.split(',').map(parseInteger);

export function qualityCommand(): Command {
  const command = new Command('quality')
    .description(
      'Measure a generator: one-step samples (samples.png), their Fréchet distance to the test images in the feature space of a ResNet beside that of training images, restoration of clean test images; writes quality.json.',
    )
    .addOption(datasetOption('real images, and shipped networks', anyDataset).makeOptionMandatory())
    .addOption(dataOption())
    .addOption(imageSizeOption())
    .option('--model <name>', 'generator: shipped or network; default the one shipped')
    .option('--generator-weights <file>', 'checkpoint of --model')
    .option('--generator-config <file>', 'JSON of settings of the generator')
    .option('--classifier <name>', 'shipped classifier or network, judge of restored images')
    .option('--weights <file>', 'checkpoint of --classifier')
    .option('--features <file>', 'checkpoint of --features-net; without it no distance is taken')
    .option('--features-net <name>', 'whose pooled activations are compared', 'resnet56')
    .option('--count <n>', 'samples, and as many test and training images', parseInteger, 10000)
    .option('--restore <n>', 'test images to restore', parseInteger, 0)
    .option('--iterations <list>', 'of the restoration', parseList, [50, 100, 200])
    .option('--k <n>', 'latent vectors an image', parseInteger)
    .option('--seed <n>', 'seed of samples and latents', parseInteger, 0)
    .option('--batch <n>', 'images together', parseInteger)
    .option('--out <dir>', 'where to write', 'out/quality');
  return addCommonOptions(command).action(quality);
}

/** The first images of a data set; of a folder, whose images come class by class, as many evenly from all. */
function someImages(flags: QualityFlags, count: number, split: 'test' | 'train' = 'test') {
  const length = flags.dataset === 'image-folder' ? openDataset(flags, split).paperCount : null;
  return loadImages(flags, length === null || count > length ? count : spread(count, length), split);
}

/** @throws InputError where it does not take what the generator makes */
async function featureNetwork(
  device: Device,
  weights: string,
  flags: QualityFlags,
  generated: readonly number[],
) {
  const { featuresNet } = flags;
  const { kind, net } = await loadNetwork(device, { ...flags, net: featuresNet, weights });
  if (kind !== 'classifier')
    throw new InputError(`--features-net ${featuresNet}: is a ${kind} network, no classifier`);
  if (String(net.imageShape) !== String(generated))
    throw new InputError(
      `--features-net ${featuresNet}: takes images of [${net.imageShape}], the generator makes [${generated}]`,
    );
  return net;
}

async function quality(flags: QualityFlags, command: Command): Promise<void> {
  const { dataset, count, iterations, seed, out } = flags;
  checkCount('--count', count);
  if (flags.features !== undefined && count < 2)
    throw new InputError(`--count must be at least 2 for a distance, got ${count}`);
  checkCount('--batch', flags.batch ?? 1);
  for (const t of iterations) checkCount('--iterations', t);
  if (flags.restore < 0) throw new InputError(`--restore must be at least 0, got ${flags.restore}`);
  if (seed < 0) throw new InputError(`--seed must be at least 0, got ${seed}`);
  const takers = { iterations: 'restore', k: 'restore', featuresNet: 'features' } as const;
  for (const [idle, taker] of Object.entries(takers))
    if (command.getOptionValueSource(idle) === 'cli' && !flags[taker as 'restore'])
      throw new InputError(`${flagOf(idle)} goes with --${taker}, which is not given`);
  checkDataset(flags);
  const { model: name, generatorWeights, generatorConfig, classifier, weights } = flags;
  const given = { model: name, generatorWeights, generatorConfig, classifier, weights };
  const cmap = {
    ...cmapSettings({
      dataset,
      model: name,
      generatorWeights,
      k: flags.k,
    }),
    seed,
  };
  const subject: Subject = {
    ...{ dataset, defence: 'cmap', bits: 0, cmap },
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
  };
  const began = performance.now();
  const test = flags.features === undefined ? null : await someImages(flags, count);
  const training = flags.features === undefined ? null : await someImages(flags, count, 'train');
  const held = flags.restore === 0 ? null : await someImages(flags, flags.restore);
  const device = await openDevice(flags);
  const opened = await openSubject(device, subject, flags);
  const { generator } = opened.defence;
  if (!generator || !opened.generator)
    throw new InputError(`no generator for ${dataset}; name one by --model`);
  const { model } = generator;
  const batch = flags.batch ?? (device.capabilities.cpu ? 32 : 256);
  const samples = samplesOf(model, count, seed);
  const features =
    flags.features === undefined
      ? null
      : { file: flags.features, net: await featureNetwork(device, flags.features, flags, model.imageShape) };
  ensureDirectory(out);

  const picture = join(out, 'samples.png');
  const many = Math.min(pictured, count);
  const size = sizeOf(model.imageShape);
  const shown = new Float32Array(many * size);
  for (let from = 0; from < many; from += batch) {
    const some = samples.batch(from, Math.min(batch, many - from));
    shown.set(await some.floats(), from * size);
    some.dispose();
  }
  writeFileAtomic(
    picture,
    await sampleGrid(
      shown,
      model.imageShape,
      `one step at σ ${model.sigmas.max}, not selected; ${opened.generator.name}, seed ${seed}`,
    ),
  );

  let distance: object | null = null;
  const rows: string[][] = [];
  if (features && test && training) {
    const bar = progress('features', 3 * count, { quiet: flags.quiet });
    let before = 0;
    const moments = async (source: typeof samples, what: string) => {
      const found = await featureMoments(features.net, source, batch, (done) =>
        bar.update(before + done, what),
      );
      before += count;
      return found;
    };
    const real = await moments(imagesOf(device, test), 'test images');
    const train = await moments(imagesOf(device, training), 'training images');
    const made = await moments(samples, 'samples');
    bar.stop();
    const [ofSamples, ofTraining] = [frechetDistance(made, real), frechetDistance(train, real)];
    distance = {
      space: `${flags.featuresNet}, ${real.mean.length} pooled activations; not Inception’s, not comparable with FID`,
      features: {
        network: flags.featuresNet,
        file: resolve(features.file),
        sha256: sha256(features.file),
      },
      count,
      samples: ofSamples,
      training: ofTraining,
    };
    rows.push(
      [`Fréchet distance (${flags.featuresNet}), samples`, ofSamples.toFixed(3), `${count} against ${count}`],
      [
        `Fréchet distance (${flags.featuresNet}), training images`,
        ofTraining.toFixed(3),
        `${count} against ${count}`,
      ],
    );
  }

  const restoration = [];
  if (held) {
    const bar = progress('restore', 100, { quiet: flags.quiet });
    const found = await restore(
      device,
      model,
      opened.defence.classifier,
      held,
      { cmap, iterations, batch: flags.batch ?? defaultBatch(device, subject, opened) },
      (part, what) => bar.update(Math.floor(100 * part), what),
    );
    bar.stop();
    for (const r of found) {
      const { low, high } = wilson(r.agreeing, r.count);
      restoration.push({ ...r, sameClass: r.agreeing / r.count, interval: [low, high] });
      rows.push([
        `restored by ${r.iterations} iterations`,
        `MAE ${r.mae.toFixed(4)}, SSIM ${r.ssim.toFixed(4)}`,
        `same class ${formatProportion(r.agreeing, r.count)}`,
      ]);
    }
  }
  const shipped = Object.hasOwn(readManifest(), opened.generator.name);
  const path = join(out, 'quality.json');
  const report = {
    schema: 1,
    dataset: openDataset(flags).title,
    generator: { ...opened.generator, file: shipped ? undefined : flags.generatorWeights },
    classifier: opened.classifier,
    frechetDistance: distance,
    restoration,
    cmap,
    seed,
    adapter: `${device.adapter.name}, ${device.adapter.driver}`,
    seconds: (performance.now() - began) / 1000,
  };
  writeFileAtomic(path, `${JSON.stringify(report, null, 1)}\n`);
  const table = rows.length > 0 ? `${formatTable(['measure', 'value', ''], rows)}\n` : '';
  process.stdout.write(`${table}${path}\n${picture}\n`);
}

/** [n, H, W, C] in [0, 1], eight in a row. */
function sampleGrid(images: Float32Array, shape: readonly [number, number, number], subtitle: string) {
  const [height, width, channels] = shape;
  const size = height * width * channels;
  const n = images.length / size;
  const columns = Math.min(8, n);
  const cell = (i: number) => ({
    image: imageFromFloats(images.subarray(i * size, (i + 1) * size), height, width, channels as 1 | 3),
  });
  const rows = Array.from({ length: Math.ceil(n / columns) }, (_, r) => ({
    cells: Array.from({ length: Math.min(columns, n - r * columns) }, (_, c) => cell(r * columns + c)),
  }));
  return gridToPng({
    title: 'Samples',
    subtitle,
    columns: new Array<string>(columns).fill(''),
    rows,
    size: 64,
  });
}
