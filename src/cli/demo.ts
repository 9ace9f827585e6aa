/** `cmap demo`: the whole idea on embedded images, in one command. */
import { join } from 'node:path';
import { Command } from 'commander';
import { checkPgdOptions } from '../attacks/pgd.ts';
import { loadFashionMnist } from '../data/fashion-mnist.ts';
import type { AdapterRecord } from '../engine/adapter.ts';
import { InputError } from '../engine/errors.ts';
import { countRight, evaluate } from '../eval/evaluate.ts';
import { loadClassifier, loadConsistencyModel, loadPreset } from '../models.ts';
import { ensureDirectory, writeFileAtomic } from '../report/files.ts';
import { progress } from '../report/progress.ts';
import { formatProportion, wilson } from '../report/statistics.ts';
import { formatTable } from '../report/table.ts';
import { writeGrid, writeTrace } from './figures.ts';
import {
  addCmapOptions,
  addCommonOptions,
  type CmapFlags,
  type CommonOptions,
  cmapOptions,
  maybeProfiled,
  openDevice,
  parseInteger,
  parseNumber,
} from './options.ts';

interface DemoOptions extends CommonOptions, CmapFlags {
  count?: number;
  eps: number;
  steps: number;
  stepSize: number;
  out: string;
}

/** Images purified in one batch, clean and attacked; bounds memory, results do not depend on it. */
const batch = 32;
/** Rows of the picture. */
const pictured = 16;

/** As many images as fit three minutes with SwiftShader, one with lavapipe, seconds on a GPU. */
export function defaultCount(adapter: Pick<AdapterRecord, 'kind' | 'source'>): number {
  if (adapter.kind === 'hardware') return 64;
  return adapter.source === 'bundled' ? 4 : 8;
}

export function demoCommand(): Command {
  const command = new Command('demo')
    .description('Attack a Fashion-MNIST classifier, purify the images with CMAP, classify by vote.')
    .option(
      '--count <n>',
      'test images; default 4 with SwiftShader, 8 with lavapipe, 64 on a GPU',
      parseInteger,
    )
    .option('--eps <x>', 'radius of the L∞ attack, such as 16/255', parseNumber)
    .option('--steps <n>', 'steps of the attack', parseInteger)
    .option('--step-size <x>', 'step size of the attack', parseNumber)
    .option('--out <dir>', 'where to write', 'out/demo')
    .addHelpText(
      'after',
      '\nDefaults of the attack and of CMAP: weights/manifest.json, tuned for the shipped models.',
    );
  addCommonOptions(addCmapOptions(command));
  return command.action(demo);
}

async function demo(flags: CommonOptions & Partial<DemoOptions> & { out: string }): Promise<void> {
  const started = performance.now();
  const preset = loadPreset('fashion-mnist');
  const options: DemoOptions = {
    ...preset.cmap,
    eps: preset.eps,
    steps: preset.attackSteps,
    stepSize: preset.attackStepSize,
    ...flags,
  };
  const cmap = cmapOptions(options);
  if (options.count !== undefined && options.count < 1)
    throw new InputError(`--count must be at least 1, got ${options.count}`);
  if (options.count !== undefined) loadFashionMnist({ count: options.count });
  const attack = {
    eps: options.eps,
    steps: options.steps,
    stepSize: options.stepSize,
    randomStart: true,
    seed: cmap.seed,
  };
  checkPgdOptions(attack);
  const device = await openDevice(options);
  const model = loadConsistencyModel(device, 'fashion-mnist-consistency');
  const classifier = loadClassifier(device, 'fashion-mnist-wrn');
  const count = options.count ?? defaultCount(device.adapter);
  const { images, labels, shape } = loadFashionMnist({ count });
  ensureDirectory(options.out);

  let bar: ReturnType<typeof progress> | null = null;
  const records = await maybeProfiled(device, options, () =>
    evaluate(
      device,
      model.net,
      classifier.net,
      { images, shape, labels, attack, cmap, batch },
      {
        onProgress: (done, total, what) => {
          bar ??= progress('demo', total, { quiet: options.quiet });
          bar.update(done, what);
        },
      },
    ),
  );
  (bar as ReturnType<typeof progress> | null)?.stop();
  const seconds = (performance.now() - started) / 1000;

  const right = countRight(records);
  const n = records.length;
  const share = (k: number) => ({ accuracy: k / n, interval: wilson(k, n) });
  const { name, driver } = device.adapter;
  const setting = `K ${cmap.k}, ${cmap.iterations} iterations, PGD-${attack.steps}, eps ${(255 * attack.eps).toFixed(0)}/255, n ${n}, ${name}`;
  const image = shape.slice(1) as [number, number, number];
  const grid = await writeGrid(
    options.out,
    records.slice(0, pictured),
    images,
    image,
    classifier.classes,
    setting,
  );
  const trace = await writeTrace(
    options.out,
    records.map((r) => r.trace),
    model.net.sigmas.max,
    `means over ${n} attacked images; ${setting}`,
  );
  const summary = {
    cleanAccuracy: right.clean / n,
    attackedAccuracy: right.attacked / n,
    purifiedAccuracy: right.purified / n,
    defendedCleanAccuracy: right.defendedClean / n,
    intervals95: {
      clean: share(right.clean).interval,
      attacked: share(right.attacked).interval,
      purified: share(right.purified).interval,
      defendedClean: share(right.defendedClean).interval,
    },
    count: n,
    eps: attack.eps,
    adapter: name,
    driver,
    seconds,
    secondsAnImage: seconds / n,
    attack,
    cmap,
    networkEvaluationsAnImage: cmap.k * cmap.iterations,
    model: model.name,
    classifier: classifier.name,
    protocol: 'transfer: the attack sees the classifier, not the defence',
    images: records.map((r) => ({
      image: r.image,
      label: r.label,
      clean: r.clean,
      attacked: r.attacked,
      defendedClean: r.defendedClean,
      defendedAttacked: r.defendedAttacked,
    })),
  };
  const path = join(options.out, 'summary.json');
  writeFileAtomic(path, `${JSON.stringify(summary, null, 1)}\n`);

  const table = formatTable(
    ['Fashion-MNIST test images', 'accuracy [95 %]', 'right'],
    [
      ['clean, no defence', formatProportion(right.clean, n), `${right.clean} of ${n}`],
      ['attacked, no defence', formatProportion(right.attacked, n), `${right.attacked} of ${n}`],
      ['attacked, purified by CMAP', formatProportion(right.purified, n), `${right.purified} of ${n}`],
      ['clean, purified by CMAP', formatProportion(right.defendedClean, n), `${right.defendedClean} of ${n}`],
    ],
  );
  process.stdout.write(
    `${table}\n${setting}\n${seconds.toFixed(1)} s, ${(seconds / n).toFixed(2)} s an image\n${path}\n${grid}\n${trace}\n`,
  );
}
