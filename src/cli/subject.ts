/** What an evaluation is of, a data set, a classifier and its defence, and how it is opened: for eval, verify, quality and demo. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Norm } from '../attacks/attack.ts';
import { generate } from '../cmap/objective.ts';
import { type CmapOptions, checkCmapOptions, paperCifar10, paperImageNet100 } from '../cmap/options.ts';
import { bitDepthDefence } from '../defences/bits.ts';
import { cmapDefence } from '../defences/cmap.ts';
import type { Defence } from '../defences/defence.ts';
import { undefended } from '../defences/none.ts';
import { vjp } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { checkClassifier, checkPixelRange } from '../eval/guards.ts';
import { type EvaluationImages, type EvaluationPlan, evaluationConfig, pickImages } from '../eval/run.ts';
import type { EvaluationConfig } from '../eval/store.ts';
import { readManifest, resolveWeights } from '../formats/manifest.ts';
import { cannotRead } from '../formats/read.ts';
import { loadPreset, presetOf, shippedNetwork } from '../models.ts';
import { type DatasetChoice, openDataset } from './datasets.ts';
import { type LoadedNetwork, loadNetwork } from './networks.ts';
import type { CmapFlags, CommonOptions } from './options.ts';
import {
  denoiserOf,
  isPurifier,
  makePurifier,
  type PurifierSettings,
  purifierNames,
  purifierSettings,
} from './purifiers.ts';

export const defences = ['none', 'cmap', 'bits', ...purifierNames] as const;

/** What is evaluated; kept in config.json as `source`, so that `cmap verify` can open it again. */
export interface Subject extends DatasetChoice {
  readonly classifier?: string;
  readonly weights?: string;
  readonly netConfig?: string;
  readonly prefix?: string;
  readonly defence: (typeof defences)[number];
  readonly model?: string;
  readonly generatorWeights?: string;
  readonly generatorConfig?: string;
  readonly bits: number;
  readonly cmap?: CmapOptions;
  /** The generator’s weights are an EDM denoiser. */
  readonly edm?: boolean;
  /** Settings of diffpure, gdmp, adp or gns. */
  readonly purifier?: PurifierSettings;
}

/** What --classifier and --weights, or --model and --generator-weights, mean together. */
function networkOptions(flags: { name: string; weights: string }, name: string, weights: string | undefined) {
  if (weights !== undefined) return { net: name, weights };
  if (Object.hasOwn(readManifest(), name)) return { weights: name };
  throw new InputError(
    `${flags.name} ${name}: not among the shipped weights (${Object.keys(readManifest()).join(', ')}); give its checkpoint by ${flags.weights}`,
  );
}

/** Of a checkpoint or a shipped name. @throws InputError */
export function sha256(weights: string): string {
  if (Object.hasOwn(readManifest(), weights)) return resolveWeights(weights).entry.sha256;
  try {
    return createHash('sha256').update(readFileSync(weights)).digest('hex');
  } catch (error) {
    throw cannotRead(weights, error);
  }
}

/** CMAP's settings: flags, else for a shipped generator those tuned with it, else those of the paper's scripts. */
export function cmapSettings(
  flags: Partial<Omit<CmapFlags, 'seed'>> & Pick<Subject, 'dataset' | 'model' | 'generatorWeights'>,
): CmapOptions {
  const { dataset, model, generatorWeights } = flags;
  const shipped = generatorWeights === undefined && (!model || Object.hasOwn(readManifest(), model));
  const paper = dataset === 'image-folder' ? paperImageNet100 : paperCifar10;
  const base = shipped && presetOf(dataset) ? loadPreset(dataset).cmap : paper;
  const { k = base.k, iterations = base.iterations, lr = base.lr } = flags;
  const { alpha = base.alpha, lambda = base.lambda } = flags;
  const options = { k, iterations, lr, alpha, lambda, betas: base.betas, seed: 0 };
  checkCmapOptions(options);
  return options;
}

export interface OpenedSubject {
  readonly defence: Defence;
  readonly classifier: { name: string; sha256: string };
  readonly generator: { name: string; sha256: string } | null;
  readonly imageShape: readonly [number, number, number];
}

/** Loads the networks. @throws InputError */
export async function openSubject(
  device: Device,
  subject: Subject,
  { quiet }: CommonOptions = {},
): Promise<OpenedSubject> {
  const { dataset, netConfig, prefix, generatorConfig } = subject;
  const load = async (
    role: 'classifier' | 'generator' | 'denoiser',
    names: { name: string; weights: string },
    given: string | undefined,
    weights: string | undefined,
    own: { netConfig?: string | undefined; prefix?: string | undefined },
  ) => {
    const name = given ?? shippedNetwork(dataset, role, `name one by ${names.name} and ${names.weights}`);
    const options = networkOptions(names, name, weights);
    const loaded = await loadNetwork(device, { quiet, ...options, ...own });
    return { loaded, identity: { name, sha256: sha256(options.weights) } };
  };
  const flags = { name: '--classifier', weights: '--weights' };
  const first = await load('classifier', flags, subject.classifier, subject.weights, { netConfig, prefix });
  if (first.loaded.kind !== 'classifier')
    throw new InputError(
      `--classifier ${first.identity.name}: is a ${first.loaded.kind} network, no classifier`,
    );
  const classifier = first.loaded.net;
  const { title, classes } = openDataset(subject);
  // Labels are numbers of the data's classes, in the order of their names.
  if (classes.length !== classifier.classes)
    throw new InputError(
      `--classifier ${first.identity.name}: decides among ${classifier.classes} classes, ${title} has ${classes.length}; give a classifier of these, or the folder of all its classes`,
    );
  const opened = (defence: Defence, generator: OpenedSubject['generator'] = null) => ({
    defence,
    classifier: first.identity,
    generator,
    imageShape: classifier.imageShape,
  });
  if (subject.defence === 'none') return opened(undefended(classifier));
  if (subject.defence === 'bits') return opened(bitDepthDefence(classifier, subject.bits));
  const names = { name: '--model', weights: '--generator-weights' };
  const role = isPurifier(subject.defence) ? 'denoiser' : 'generator';
  const second = await load(role, names, subject.model, subject.generatorWeights, {
    netConfig: generatorConfig,
  });
  if (isPurifier(subject.defence)) {
    const denoiser = denoiserOf(
      second.loaded,
      second.identity.name,
      subject.edm ?? (second.loaded.kind === 'consistency' && second.loaded.edm),
    );
    const settings = subject.purifier ?? purifierSettings(subject.defence, []);
    return opened(makePurifier(subject.defence, denoiser, classifier, settings), second.identity);
  }
  const model = consistency(second.loaded, second.identity.name);
  return opened(cmapDefence(model, classifier, subject.cmap as CmapOptions), second.identity);
}

function consistency(loaded: LoadedNetwork, name: string) {
  if (loaded.kind !== 'consistency' || loaded.net.unet.classes > 0 || loaded.edm)
    throw new InputError(`--model ${name}: an unconditional consistency model is wanted`);
  return loaded.net;
}

/** Memory of a GPU that intermediate results may take when --batch does not say; how much it has nobody tells. */
const usualBytes = 4 * 2 ** 30;

/** Images together when --batch does not say: a judgement holds the activations of K latents or copies an image. */
export function defaultBatch(
  device: Device,
  subject: Pick<Subject, 'defence' | 'cmap' | 'purifier'>,
  { defence, imageShape }: Pick<OpenedSubject, 'defence' | 'imageShape'>,
): number {
  const cpu = device.capabilities.cpu;
  const copies = subject.defence === 'cmap' ? subject.cmap?.k : subject.purifier?.copies;
  const most =
    typeof copies === 'number' ? Math.max(1, Math.floor((cpu ? 32 : 256) / copies)) : cpu ? 16 : 64;
  if (cpu) return most;
  const { generator, classifier } = defence;
  const planned = (f: (x: Tensor) => Tensor, shape: readonly number[]) =>
    device.cost(() => {
      const { output, pullback } = vjp(f, [device.zeros(shape)]);
      return pullback(device.full(output.shape, 1));
    }).plannedBytes;
  const images = planned((x) => classifier.logits(x), [1, ...imageShape]);
  const latents = generator
    ? planned((z) => generate(generator.model, z), [1, generator.cmap.k, ...generator.model.imageShape])
    : 0;
  return Math.max(1, Math.min(most, Math.floor(usualBytes / Math.max(images, latents))));
}

/** @throws InputError when the classifier does not take the data set's images, or one of the usual mistakes is made */
export async function checkSubject(device: Device, opened: OpenedSubject, data: EvaluationImages) {
  const [, ...shape] = data.shape;
  const { name } = opened.classifier;
  if (String(shape) !== String(opened.imageShape))
    throw new InputError(
      `--classifier ${name}: takes images of [${opened.imageShape}], the data set has [${shape}]; choose a pair that fits`,
    );
  checkPixelRange('the test images', data.images);
  const rows = data.ids.slice(0, 64).map((_, i) => i);
  const x = pickImages(device, data, rows);
  try {
    await checkClassifier(
      `--classifier ${name}`,
      opened.defence.classifier,
      x,
      rows.map((i) => data.labels[i] as number),
    );
  } finally {
    x.dispose();
  }
}

/** What identifies an evaluation. */
export const configOf = (
  plan: EvaluationPlan,
  { classifier, generator }: OpenedSubject,
  subject: Subject & { readonly flags?: object },
  norm: Norm,
  eps: number,
): EvaluationConfig => {
  const dataset = openDataset(subject).title;
  return evaluationConfig(plan, { dataset, classifier, generator, norm, eps, source: { ...subject } });
};
