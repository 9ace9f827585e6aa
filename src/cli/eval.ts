/** `cmap eval`: attacks against a defence, measured, stored, resumable. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Command, Option } from 'commander';
import { checkBall, checkRadius, type Norm, norms } from '../attacks/attack.ts';
import { fraction, parseSpec } from '../attacks/spec.ts';
import { paperSubset } from '../data/subset.ts';
import { InputError } from '../engine/errors.ts';
import { sizeOf } from '../engine/tensor.ts';
import {
  type AttackSettings,
  listAttacks,
  normOf,
  type PlannedAttack,
  planAttacks,
  splitAttacks,
} from '../eval/attacks.ts';
import { resume } from '../eval/finished.ts';
import type { EvaluationSummary } from '../eval/metrics.ts';
import { evaluationPresets } from '../eval/presets.ts';
import { batchOf, type EvaluationPlan, estimateCost, runEvaluation, workOf } from '../eval/run.ts';
import { mostSeed } from '../eval/seeds.ts';
import { readConfig, Store } from '../eval/store.ts';
import { readManifest } from '../formats/manifest.ts';
import { packageRoot, packageVersion } from '../formats/package-root.ts';
import { formatDuration, progress } from '../report/progress.ts';
import { formatTable } from '../report/table.ts';
import {
  type AnyDatasetName,
  anyDataset,
  checkDataset,
  dataOption,
  datasetOption,
  imageSizeOption,
  loadImages,
  openDataset,
} from './datasets.ts';
import {
  addCmapOptions,
  addCommonOptions,
  type CmapFlags,
  type CommonOptions,
  flagOf,
  openDevice,
  parseInteger,
  parseNumber,
} from './options.ts';
import { isPurifier, purifierHelp, purifierNames, purifierSettings } from './purifiers.ts';
import {
  checkSubject,
  cmapSettings,
  configOf,
  defaultBatch,
  defences,
  openSubject,
  type Subject,
} from './subject.ts';

interface EvalFlags extends CommonOptions, Partial<CmapFlags>, Omit<Subject, 'cmap' | 'purifier'> {
  readonly set: readonly string[];
  readonly attack?: string;
  readonly norm?: Norm;
  readonly eps?: number;
  readonly steps?: number;
  readonly stepSize?: number;
  readonly restarts?: number;
  readonly queries?: number;
  readonly eot?: number;
  readonly compat?: 'official';
  readonly count?: number;
  readonly offset?: number;
  readonly subset?: 'paper';
  readonly runs?: number;
  readonly evalRuns?: number;
  readonly preset: string;
  readonly batch?: number;
  readonly purified: boolean;
  readonly out: string;
  readonly resume?: boolean;
}

const choice = (flags: string, text: string, values: readonly string[]) =>
  new Option(flags, text).choices([...values]);

export function evalCommand(): Command {
  const command = new Command('eval')
    .description('Attack a classifier or a defended classifier; writes records, images and summary.json.')
    .addOption(datasetOption('test set; needed unless --resume finds it in --out', anyDataset))
    .addOption(dataOption())
    .addOption(imageSizeOption())
    .option('--classifier <name>', 'shipped classifier or network; default the one shipped for the data set')
    .option('--weights <file>', 'checkpoint of --classifier')
    .option('--net-config <file>', 'JSON of settings of the classifier')
    .option('--prefix <text>', 'before the classifier’s names in its checkpoint; found out when not given')
    .addOption(choice('--defence <name>', 'what defends it', defences).default('none'))
    .option('--model <name>', 'generator of the defence: shipped or network; default the one shipped')
    .option('--generator-weights <file>', 'checkpoint of --model')
    .option('--generator-config <file>', 'JSON of settings of the generator')
    .option('--edm', 'the weights of --model are an EDM denoiser, not a consistency model')
    .option(
      '--set <key=value>',
      'setting of diffpure, gdmp, adp or gns, once each; see the list below',
      (pair: string, before: readonly string[]) => [...before, pair],
      [],
    )
    .option('--bits <n>', 'levels of defence bits are 2^n; default 3', parseInteger)
    .option(
      '--attack <list>',
      'comma list of attacks, each NAME[:KEY=VALUE…][@SURFACE[:KEY=VALUE…]]; none measures accuracy alone',
    )
    .addOption(choice('--norm <name>', 'of the threat model; default Linf', norms))
    .option(
      '--eps <x>',
      'radius; default 8/255 for Linf (16/255 for fashion-mnist, 4/255 for image-folder), 0.5 for L2, 12 for L1',
      parseNumber,
    )
    .option('--steps <n>', 'iterations of PGD, APGD, FAB', parseInteger)
    .option('--step-size <x>', 'of PGD; default 2.5 eps/steps', parseNumber)
    .option('--restarts <n>', 'of PGD, APGD, FAB', parseInteger)
    .option('--queries <n>', 'of Square', parseInteger)
    .option('--eot <n>', 'draws a gradient on randomised surfaces', parseInteger)
    .addOption(choice('--compat <name>', 'of disruption: as the released code computes it', ['official']))
    .option('--count <n>', 'test images', parseInteger)
    .option('--offset <n>', 'the first of them', parseInteger)
    .addOption(choice('--subset <name>', 'the paper’s random images instead of the first', ['paper']))
    .option('--runs <n>', 'repetitions of the attacks with other seeds', parseInteger)
    .option('--eval-runs <n>', 'judgements of each image by a randomised defence', parseInteger)
    .addOption(
      choice('--preset <name>', 'sizes for what is not given', Object.keys(evaluationPresets)).default(
        'quick',
      ),
    )
    .option(
      '--batch <n>',
      `images together: memory, and what a kill loses; default on a software driver one where an image takes more than ${costly} network evaluations`,
      parseInteger,
    )
    .option('--no-purified', 'do not store what the defence made of the images')
    .option('--out <dir>', 'where to write', 'out/eval')
    .option('--resume', 'go on with the evaluation in --out; other flags may be left out, and attacks added')
    .addHelpText(
      'after',
      `\nAttacks: ${listAttacks()
        .map(
          ([name, text, options]) => `\n  ${name.padEnd(16)} ${text}\n${' '.repeat(19)}${options.join(', ')}`,
        )
        .join(
          '',
        )}\n\nWhat stands below each can be set for it alone, pgd:loss=margin:eot=4. Settings (--set) and their defaults:${purifierHelp()}`,
    );
  addCommonOptions(addCmapOptions(command));
  return command.action(evaluate);
}

/**
 * An image of more network evaluations goes alone on a software driver, so that a kill loses no other: that is everything
 * but single steps and clean images. Little is lost by it (docs/evaluation.md, "The folder").
 */
const costly = 20;

/** What --resume finds where only --out is given: the flags that the evaluation was begun with. */
function withStored(flags: EvalFlags, command: Command): EvalFlags {
  if (!flags.resume || !existsSync(join(flags.out, 'config.json'))) return flags;
  const { source, attacks } = readConfig(flags.out);
  const stored = source?.flags as Partial<EvalFlags> | undefined;
  if (!stored) return flags;
  const given = Object.fromEntries(
    Object.entries(flags).filter(([name]) => command.getOptionValueSource(name) === 'cli'),
  );
  const attack = [...Object.keys(attacks), ...splitAttacks((given.attack as string) ?? 'none')].join(',');
  return { ...flags, ...stored, ...given, attack };
}

async function evaluate(own: EvalFlags, command: Command): Promise<void> {
  const flags = withStored(own, command);
  if (!flags.dataset)
    throw new InputError(
      `--dataset is missing${flags.resume ? `, and ${flags.out} does not say it` : ''}; it is one of ${anyDataset.join(', ')}`,
    );
  const preset = evaluationPresets[flags.preset] as (typeof evaluationPresets)[string];
  const { attacks: ofPreset } = preset;
  const names = splitAttacks(flags.attack ?? ofPreset[flags.defence] ?? (ofPreset.default as string));
  const norm = flags.norm ?? normOf(names) ?? 'Linf';
  const eps = flags.eps ?? defaultEps(norm, flags.dataset);
  const steps = flags.steps ?? preset.steps;
  const settings: AttackSettings = {
    norm,
    eps,
    steps,
    stepSize: flags.stepSize ?? preset.stepSize,
    start: preset.start,
    direction: preset.direction,
    keep: preset.keep,
    restarts: flags.restarts ?? preset.restarts,
    queries: flags.queries ?? preset.queries,
    eot: flags.eot ?? preset.eot,
    compat: flags.compat,
  };
  const { seed = 0, runs = preset.runs, evalRuns = preset.evaluations } = flags;
  for (const [name, value] of Object.entries({ runs, 'eval-runs': evalRuns, batch: flags.batch ?? 1 }))
    if (value < 1 || value >= 2 ** 20)
      throw new InputError(`--${name} must be an integer of 1 to ${2 ** 20 - 1}, got ${value}`);
  if (seed < 0 || seed > mostSeed)
    throw new InputError(`--seed must be an integer of 0 to ${mostSeed}, got ${seed}`);
  checkDataset(flags);
  refuseIdle(flags, command, names);
  const subject = subjectOf(flags);
  const data = await loadImages(subject, chosenImages(flags, preset));
  checkBall(norm, eps);
  checkRadius(norm, eps, sizeOf(data.shape.slice(1)));
  const device = await openDevice(flags);
  const opened = await openSubject(device, subject, flags);
  const { defence } = opened;
  const attacks = planAttacks(names, settings, defence);
  await checkSubject(device, opened, data);
  const plan: EvaluationPlan = {
    data,
    defence,
    attacks,
    seed,
    runs,
    evaluations: defence.randomised ? evalRuns : 1,
    batch: flags.batch ?? defaultBatch(device, subject, opened),
    ...(flags.batch === undefined && device.capabilities.cpu ? { alone: costly } : {}),
    purified: flags.purified,
  };
  checkWholeBatches(plan);
  const [, height, width] = data.shape;
  for (const attack of attacks) attack.checkImages(data.ids, height, width);
  const config = configOf(plan, opened, { ...subject, flags: storedFlags(flags) }, norm, eps);
  const store = Store.open(flags.out, config, flags.resume ?? false);
  if (store.lost > 0)
    process.stderr.write(
      `cmap: ${flags.out}: ${store.lost} records name images that are no longer in images/; they are made anew\n`,
    );
  const interrupted = () => {
    store.close();
    process.stderr.write(
      `\ncmap: interrupted; what is done is in ${flags.out}, ${resume(flags.out)} goes on\n`,
    );
    process.exit(130);
  };
  process.once('SIGINT', interrupted);
  try {
    const { name, driver, kind } = device.adapter;
    const before = store.lastAdapter();
    if (before !== null && before !== name)
      process.stderr.write(
        `cmap: ${flags.out} was written on ${before}, this is ${name}: results agree to rounding, not to the bit\n`,
      );
    store.started({
      date: new Date().toISOString(),
      command: ['cmap', ...process.argv.slice(2)].join(' '),
      version: packageVersion(),
      commit: sourceCommit(),
      node: process.version,
      platform: `${process.platform} ${process.arch}`,
      adapter: { name, driver, kind },
      batch: plan.batch,
      alone: plan.alone ?? null,
    });
    const cost = await estimateCost(device, plan);
    if (!flags.quiet) {
      if (defence.settings.network === 'consistency')
        process.stderr.write(
          'network: a consistency function stands for the denoiser of the defence; give a denoiser by --model or --edm\n',
        );
      process.stderr.write(`${costLine(plan, cost, name)}\n`);
    }
    const bar = progress('eval', workOf(plan), { quiet: flags.quiet ?? false });
    const summary = await runEvaluation(device, plan, store, {
      onProgress: (done, _, what) => bar.update(Math.floor(done), what),
    });
    bar.stop();
    const path = store.write('summary.json', summary);
    process.stdout.write(`${summaryText(summary)}\n${path}\n`);
  } finally {
    process.off('SIGINT', interrupted);
    store.close();
  }
}

/**
 * The released form of disruption compares the images of a batch, which must then be whole and the same at every start; of one
 * image its class term is 0.
 */
function checkWholeBatches({ attacks, batch, data }: EvaluationPlan): void {
  const released = attacks.find(({ settings }) => settings.compat !== undefined);
  const rest = data.ids.length % batch;
  if (released && (rest > 0 || batch < 2))
    throw new InputError(
      `--compat official: ${released.id} runs over whole batches of at least 2 (as published 5 of CIFAR-10, 10 of ImageNet-100), and ${data.ids.length} images are in batches of ${batch}; give a --batch that divides --count`,
    );
}

/** All that --resume needs to know, with paths that hold from anywhere. */
function storedFlags(flags: EvalFlags): Partial<EvalFlags> {
  const { out, resume, quiet, profile, adapter, attack, ...rest } = flags;
  return { ...rest, ...placed(flags) };
}

/** The flags that name files, those that are given, from wherever they are read; a shipped name stays. */
function placed(flags: EvalFlags): Partial<Pick<Subject, (typeof pathFlags)[number]>> {
  const shipped = readManifest();
  return Object.fromEntries(
    pathFlags.flatMap((name) => {
      const value = flags[name];
      if (value === undefined) return [];
      return [[name, Object.hasOwn(shipped, value) ? value : resolve(value)]];
    }),
  );
}
const pathFlags = ['data', 'weights', 'netConfig', 'generatorWeights', 'generatorConfig'] as const;

/** Of a checkout of the sources, with + where it was changed; null for an installed package. */
function sourceCommit(): string | null {
  const git = (...args: string[]) =>
    execFileSync('git', ['-C', packageRoot(), ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  try {
    if (resolve(git('rev-parse', '--show-toplevel')) !== resolve(packageRoot())) return null;
    return git('rev-parse', 'HEAD') + (git('status', '--porcelain', '--untracked-files=no') ? '+' : '');
  } catch {
    return null;
  }
}

const linfEps = { cifar10: 8 / 255, 'fashion-mnist': 16 / 255, 'image-folder': 4 / 255 } as const;
/** Radii in use: of L2 Croce & Hein 2020 and the paper, of L1 Croce & Hein 2021 for images of 32 x 32. */
const defaultEps = (norm: Norm, dataset: AnyDatasetName) =>
  ({ Linf: linfEps[dataset], L2: 0.5, L1: 12 })[norm];

function costLine(plan: EvaluationPlan, cost: Awaited<ReturnType<typeof estimateCost>>, adapter: string) {
  const n = plan.data.ids.length;
  const number = (x: number) => Math.round(x).toLocaleString('en-US');
  return `cost: at most ${number(cost.attack)} network evaluations an image for attacks and ${number(cost.judgement)} for judgements, ${number(n * (cost.attack + cost.judgement))} for ${n} images; about ${formatDuration(1000 * cost.seconds)} on ${adapter}, measured on ${cost.images}; a kill loses at most ${lossOf(plan)}`;
}

/** "one image", "64 images", or "one image, 16 of none, fgsm". */
function lossOf(plan: EvaluationPlan): string {
  const { attacks, data } = plan;
  const lost = (attack: PlannedAttack) => Math.min(data.ids.length, batchOf(plan, attack));
  const together = attacks.filter((attack) => lost(attack) > 1);
  if (together.length === 0) return 'one image';
  const most = Math.max(...together.map(lost));
  if (together.length === attacks.length) return `${most} images`;
  return `one image, ${most} of ${together.map(({ id }) => id).join(', ')}`;
}

function chosenImages(flags: EvalFlags, preset: (typeof evaluationPresets)[string]): ArrayLike<number> {
  const count = flags.count ?? preset.count;
  if (count < 1) throw new InputError(`--count must be at least 1, got ${count}`);
  const subset = flags.subset ?? (flags.offset === undefined ? preset.subset : undefined);
  if (subset === 'paper') {
    if (flags.offset !== undefined)
      throw new InputError('--offset and --subset paper exclude each other; give one');
    const { paperCount } = openDataset(flags);
    const asked = flags.subset ? '--subset paper' : `--preset ${flags.preset}`;
    if (paperCount === null)
      throw new InputError(
        `${asked}: the paper's images are of cifar10 and image-folder, not of ${flags.dataset}; give --offset 0 for the first --count`,
      );
    const wanted = flags.subset && flags.count === undefined ? 500 : count;
    if (wanted > paperCount)
      throw new InputError(
        `${asked}: ${wanted} images of ${paperCount} are asked for; give --count, at most ${paperCount}`,
      );
    return paperSubset(paperCount, wanted);
  }
  const offset = flags.offset ?? 0;
  if (offset < 0) throw new InputError(`--offset must be at least 0, got ${offset}`);
  return Array.from({ length: count }, (_, i) => offset + i);
}

/** Flags that one defence or attack takes and another would ignore. @throws InputError */
function refuseIdle(flags: EvalFlags, command: Command, attacks: readonly string[]): void {
  const { defence } = flags;
  const generators = ['cmap', ...purifierNames];
  const takers: [flags: (keyof EvalFlags)[], defences: readonly string[]][] = [
    [['model', 'generatorWeights', 'generatorConfig'], generators],
    [['edm', 'set'], purifierNames],
    [['k', 'iterations', 'lr', 'alpha', 'lambda'], ['cmap']],
    [['bits'], ['bits']],
  ];
  for (const [names, defences] of takers)
    for (const name of names)
      if (command.getOptionValueSource(name) === 'cli' && !defences.includes(defence))
        throw new InputError(
          `${flagOf(name)} is for --defence ${defences.join(', ')}; this one is ${defence}, which would ignore it`,
        );
  const taking = listAttacks().flatMap(([name, , options]) => (options.includes('compat') ? [name] : []));
  if (
    command.getOptionValueSource('compat') === 'cli' &&
    !attacks.some((id) => taking.includes(parseSpec(id).name))
  )
    throw new InputError(`--compat is for --attack ${taking.join(', ')}; none is asked for`);
}

function subjectOf(flags: EvalFlags): Subject {
  const { dataset, imageSize, classifier, prefix, defence, model, bits = 3, edm, set } = flags;
  const names = { imageSize, classifier, prefix, model };
  return {
    dataset,
    defence,
    bits,
    ...(defence === 'cmap' ? { cmap: cmapSettings(flags) } : {}),
    ...(isPurifier(defence) ? { purifier: purifierSettings(defence, set) } : {}),
    edm,
    ...placed(flags),
    ...Object.fromEntries(Object.entries(names).filter(([, value]) => value !== undefined)),
  };
}

const percent = (value: number) => (100 * value).toFixed(1);
const withInterval = (value: number, [low, high]: readonly [number, number]) =>
  `${percent(value)} % [${percent(low)}, ${percent(high)}]`;

function summaryText(s: EvaluationSummary): string {
  const rows = Object.entries(s.attacks)
    .filter(([name]) => name !== 'none')
    .map(([name, a]) => [
      name,
      a.knowledge,
      withInterval(a.robust, a.interval),
      withInterval(a.worst.value, a.worst.interval),
      a.success ? `${percent(a.success.value)} %` : '–',
      `${a.secondsAnImage.toFixed(2)} s`,
    ]);
  const head = [
    ['clean', 'no defence', withInterval(s.clean, s.cleanInterval), '', '', ''],
    [
      'standard',
      'no attack',
      withInterval(s.standard, s.standardInterval),
      withInterval(s.attacks.none?.worst.value as number, s.attacks.none?.worst.interval as [number, number]),
      '',
      '',
    ],
  ];
  const last = [
    'all attacks',
    'worst case',
    withInterval(s.robust, s.robustInterval),
    withInterval(s.worst.value, s.worst.interval),
    '',
    '',
  ];
  const table = formatTable(
    ['attack', 'knowledge', 'accuracy [95 %]', `worst of ${s.evaluations}`, 'success', 'an image'],
    [...head, ...rows, ...(rows.length > 0 ? [last] : [])],
  );
  const notes = s.notes.map((note) => `note: ${note}\n`).join('');
  return `${table}\n${notes}${s.dataset}, ${s.classifier}, defence ${s.defence}, ${s.norm} eps ${fraction(s.eps)}, n ${s.count}, runs ${s.runs}, seed ${s.seed}`;
}
