/** `cmap demo`: the whole idea on test images, in one command. */
import { join } from 'node:path';
import { Command } from 'commander';
import { defaultStepSize } from '../attacks/attack.ts';
import { fraction } from '../attacks/spec.ts';
import type { AdapterRecord } from '../engine/adapter.ts';
import { planAttacks } from '../eval/attacks.ts';
import type { AttackSummary } from '../eval/metrics.ts';
import { type EvaluationPlan, runEvaluation, workOf } from '../eval/run.ts';
import { type EvaluationRecord, keyOf, MemoryStore } from '../eval/store.ts';
import { readManifest } from '../formats/manifest.ts';
import { loadPreset, shippedNetwork } from '../models.ts';
import { publishedSigmas } from '../nets/consistency.ts';
import { ensureDirectory, writeFileAtomic } from '../report/files.ts';
import { progress } from '../report/progress.ts';
import { formatProportion, wilson } from '../report/statistics.ts';
import { formatTable } from '../report/table.ts';
import { checkCount, type DatasetName, dataOption, datasetOption, loadImages, titles } from './datasets.ts';
import { purificationChart, writeChart, writeGrid } from './figures.ts';
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
import { configOf, openSubject, type Subject } from './subject.ts';

interface DemoOptions extends CommonOptions, CmapFlags {
  readonly dataset: DatasetName;
  readonly data?: string;
  readonly count?: number;
  readonly eps: number;
  readonly steps: number;
  readonly stepSize?: number;
  readonly out: string;
}

/** Images purified in one batch; bounds memory, results do not depend on it. */
const batch = 64;
/** Rows of the picture. */
const pictured = 16;
/** PGD on the bare classifier. */
const attackName = 'pgd@classifier';

/**
 * As many images as fit a few minutes with SwiftShader, a minute or two with lavapipe, seconds on a GPU. The networks of
 * CIFAR-10 cost four times those of Fashion-MNIST.
 */
function defaultCount(
  adapter: Pick<AdapterRecord, 'kind' | 'source'>,
  dataset: DatasetName = 'fashion-mnist',
): number {
  if (adapter.kind === 'hardware') return 64;
  const few = adapter.source === 'bundled' ? 4 : 8;
  return dataset === 'cifar10' ? few / 4 : few;
}

export function demoCommand(): Command {
  const command = new Command('demo')
    .description('Attack a classifier, purify the images with CMAP, classify by vote.')
    .addOption(datasetOption('test images and shipped networks').default('fashion-mnist'))
    .addOption(dataOption())
    .option(
      '--count <n>',
      'test images; default 4 with SwiftShader, 8 with lavapipe, 64 on a GPU; of cifar10 1, 2, 64',
      parseInteger,
    )
    .option('--eps <x>', 'radius of the L∞ attack, such as 16/255', parseNumber)
    .option('--steps <n>', 'steps of the attack', parseInteger)
    .option('--step-size <x>', 'step size of the attack; default 2.5 eps/steps', parseNumber)
    .option('--out <dir>', 'where to write', 'out/demo')
    .addHelpText(
      'after',
      '\nDefaults of the attack and of CMAP: weights/manifest.json, tuned for the shipped models.',
    );
  addCommonOptions(addCmapOptions(command));
  return command.action(demo);
}

type Flags = CommonOptions & Partial<DemoOptions> & Pick<DemoOptions, 'dataset' | 'out'>;

async function demo(flags: Flags): Promise<void> {
  const started = performance.now();
  const { dataset } = flags;
  const classifierName = shippedNetwork(dataset, 'classifier');
  shippedNetwork(dataset, 'generator');
  const preset = loadPreset(dataset);
  const options: DemoOptions = {
    ...preset.cmap,
    eps: preset.eps,
    steps: preset.attackSteps,
    ...flags,
  };
  const stepSize = flags.stepSize ?? defaultStepSize('Linf', options.eps, options.steps);
  const cmap = cmapOptions(options);
  if (options.count !== undefined) checkCount('--count', options.count);
  let data = options.count === undefined ? null : await loadImages(options, options.count);
  const device = await openDevice(options);
  data ??= await loadImages(options, defaultCount(device.adapter, dataset));
  const subject: Subject = { dataset, defence: 'cmap', bits: 0, cmap };
  const opened = await openSubject(device, subject, options);
  const attack = {
    norm: 'Linf',
    eps: options.eps,
    steps: options.steps,
    stepSize,
    randomStart: true,
    ...{ restarts: 1, queries: 1, eot: 1 },
  } as const;
  const plan: EvaluationPlan = {
    data,
    defence: opened.defence,
    attacks: planAttacks([attackName], attack, opened.defence),
    seed: cmap.seed,
    ...{ runs: 1, evaluations: 1, batch, purified: true },
  };
  ensureDirectory(options.out);

  const store = new MemoryStore(configOf(plan, opened, subject, attack.norm, attack.eps));
  const result = await maybeProfiled(device, options, async () => {
    const bar = progress('demo', workOf(plan), { quiet: options.quiet });
    const onProgress = (done: number, _: number, what: string) => bar.update(Math.floor(done), what);
    const summary = await runEvaluation(device, plan, store, { onProgress });
    bar.stop();
    return summary;
  });
  const seconds = (performance.now() - started) / 1000;

  const n = data.ids.length;
  const classes =
    (readManifest()[classifierName]?.classes as string[] | undefined) ??
    Array.from({ length: opened.defence.classes }, (_, i) => `class ${i}`);
  const { name, driver } = device.adapter;
  const setting = `K ${cmap.k}, ${cmap.iterations} iterations, PGD-${attack.steps}, eps ${fraction(attack.eps)}, n ${n}, ${name}`;
  const record = (image: number, under: string) =>
    store.records.get(keyOf({ image, attack: under, run: 0 })) as EvaluationRecord;
  const pairs = data.ids.map((image) => ({
    clean: record(image, 'none'),
    attacked: record(image, attackName),
  }));
  const shape = opened.imageShape;
  const size = data.images.length / n;
  const images = pairs.slice(0, pictured).map(({ clean, attacked }, i) => {
    return {
      clean: data.images.subarray(i * size, (i + 1) * size),
      adversarial: store.image(attacked, 'adversarial'),
      purified: store.image(attacked, 'purified'),
      label: clean.bare,
      record: attacked,
    };
  });
  const grid = join(options.out, 'grid.png');
  await writeGrid(grid, images, shape, classes, setting);
  const trace = await writeChart(
    options.out,
    'trace',
    purificationChart(
      { clean: pairs.map((p) => p.clean), attacked: pairs.map((p) => p.attacked) },
      publishedSigmas.max,
      `means over ${n} images; ${setting}`,
    ),
  );

  const { eps, steps, randomStart } = attack;
  const under = result.attacks[attackName] as AttackSummary;
  const accuracies = {
    clean: result.clean,
    attacked: under.bare,
    purified: under.robust,
    defendedClean: result.standard,
  };
  const right = (accuracy: number) => Math.round(n * accuracy);
  const vote = (r: EvaluationRecord) => ({ label: r.labels[0], votes: r.votes[0] });
  const summary = {
    cleanAccuracy: accuracies.clean,
    attackedAccuracy: accuracies.attacked,
    purifiedAccuracy: accuracies.purified,
    defendedCleanAccuracy: accuracies.defendedClean,
    intervals95: Object.fromEntries(
      Object.entries(accuracies).map(([key, value]) => [key, wilson(right(value), n)]),
    ),
    count: n,
    dataset,
    eps,
    adapter: name,
    driver,
    seconds,
    secondsAnImage: seconds / n,
    attack: { eps, steps, stepSize, randomStart, seed: cmap.seed, linf: under.linf },
    cmap,
    networkEvaluationsAnImage: cmap.k * cmap.iterations,
    model: opened.generator?.name,
    classifier: opened.classifier.name,
    protocol: 'transfer: the attack sees the classifier, not the defence',
    images: pairs.map(({ clean, attacked }) => ({
      image: clean.image,
      label: clean.label,
      clean: clean.bare,
      attacked: attacked.bare,
      defendedClean: vote(clean),
      defendedAttacked: vote(attacked),
    })),
  };
  const path = join(options.out, 'summary.json');
  writeFileAtomic(path, `${JSON.stringify(summary, null, 1)}\n`);

  const row = (what: string, accuracy: number) => [
    what,
    formatProportion(right(accuracy), n),
    `${right(accuracy)} of ${n}`,
  ];
  const table = formatTable(
    [`${titles[dataset]} test images`, 'accuracy [95 %]', 'right'],
    [
      row('clean, no defence', accuracies.clean),
      row('attacked, no defence', accuracies.attacked),
      row('attacked, purified by CMAP', accuracies.purified),
      row('clean, purified by CMAP', accuracies.defendedClean),
    ],
  );
  process.stdout.write(
    `${table}\n${setting}\n${seconds.toFixed(1)} s, ${(seconds / n).toFixed(2)} s an image\n${path}\n${grid}\n${trace}\n`,
  );
}
