/** The shipped networks by name, and the hyper-parameters that go with a data set. */
import { join } from 'node:path';
import type { CmapOptions } from './cmap/options.ts';
import { paperCifar10 } from './cmap/options.ts';
import type { Device } from './engine/device.ts';
import { InputError } from './engine/errors.ts';
import { readManifest, resolveWeights, weightsFolder } from './formats/manifest.ts';
import { readJson } from './formats/read.ts';
import { openSafetensors } from './formats/safetensors.node.ts';
import { ClassifierNet } from './nets/classifier.ts';
import { ConsistencyModel, publishedSigmas, type Sigmas } from './nets/consistency.ts';
import { ncsnpp } from './nets/ncsnpp.ts';
import { wideResNet } from './nets/wide-resnet.ts';

export interface LoadedModel {
  readonly name: string;
  readonly net: ConsistencyModel;
}

export interface LoadedClassifier {
  readonly name: string;
  readonly net: ClassifierNet;
  /** Class names by label. */
  readonly classes: readonly string[];
}

/** @param name of an entry of weights/manifest.json @throws InputError when it is missing, damaged or another kind */
export function loadConsistencyModel(device: Device, name = 'fashion-mnist-consistency'): LoadedModel {
  const { entry, source } = open(name, 'ncsnpp');
  if (isDenoiser(name))
    throw new InputError(`${name} is an EDM denoiser, a consistency model is wanted here`);
  const sigmas = (entry.sigma as Sigmas | undefined) ?? publishedSigmas;
  return { name, net: ConsistencyModel.load(device, ncsnpp(entry.config), source, { sigmas }) };
}

/** @param name of an entry of weights/manifest.json @throws InputError when it is missing, damaged or another kind */
export function loadClassifier(device: Device, name = 'fashion-mnist-wrn'): LoadedClassifier {
  const { entry, source } = open(name, 'wide_resnet');
  const net = ClassifierNet.load(device, wideResNet(entry.config), source);
  const classes =
    (entry.classes as string[] | undefined) ?? Array.from({ length: net.classes }, (_, i) => `class ${i}`);
  return { name, net, classes };
}

/** Whether the manifest has the name as an EDM denoiser: of a consistency model's architecture, but not one. */
export function isDenoiser(name: string): boolean {
  const manifest = readManifest();
  return Object.hasOwn(manifest, name) && manifest[name]?.objective === 'edm';
}

function open(name: string, kind: string) {
  const { path, entry } = resolveWeights(name);
  if (entry.kind !== kind) throw new InputError(`${name} is a ${entry.kind}, a ${kind} is wanted here`);
  return { entry, source: openSafetensors(path) };
}

/** The script that trains a data set's networks. */
const recipes: Readonly<Record<string, string>> = {
  'fashion-mnist': 'weights/train/fashion_mnist.py',
  cifar10: 'weights/train/cifar10.py',
};

/**
 * Name of the data set's shipped network, an entry of weights/manifest.json.
 * @param otherwise how a user names another, for the refusal
 * @throws InputError saying how to train one, where none is shipped
 */
export function shippedNetwork(
  dataset: string,
  role: 'classifier' | 'generator' | 'denoiser',
  otherwise?: string,
): string {
  const name = presetOf(dataset)?.[role];
  const path = join(weightsFolder(), 'manifest.json');
  const where =
    typeof name !== 'string'
      ? `has no preset "${dataset}" that names it`
      : Object.hasOwn(readManifest(), name)
        ? null
        : `has no entry "${name}"`;
  if (where === null) return name as string;
  const recipe = recipes[dataset];
  const ways = [
    ...(recipe ? [`train it with python3 ${recipe} (commands in weights/README.md)`] : []),
    ...(otherwise === undefined ? [] : [otherwise]),
  ];
  throw new InputError(
    `no ${role} is shipped for ${dataset}: ${path} ${where}${ways.length > 0 ? `; ${ways.join(' or ')}` : ''}`,
  );
}

function presetOf(dataset: string): Record<string, unknown> | undefined {
  const { presets = {} } = readJson(join(weightsFolder(), 'manifest.json')) as {
    presets?: Record<string, Record<string, unknown>>;
  };
  return Object.hasOwn(presets, dataset) ? presets[dataset] : undefined;
}

/** Hyper-parameters tuned for a data set's shipped models; measured, see weights/README.md. */
export interface Preset {
  readonly cmap: CmapOptions;
  readonly eps: number;
  readonly attackSteps: number;
  readonly attackStepSize: number;
}

/** @throws InputError when the data set has none, or one that lacks a number */
export function loadPreset(name: string): Preset {
  const path = join(weightsFolder(), 'manifest.json');
  const found = presetOf(name);
  if (!found) throw new InputError(`${path}: no preset "${name}"`);
  const number = (field: string) => {
    const value = found[field];
    if (typeof value !== 'number')
      throw new InputError(`${path}: presets.${name}.${field} is ${JSON.stringify(value)}, not a number`);
    return value;
  };
  const cmap = {
    ...paperCifar10,
    k: number('k'),
    iterations: number('iterations'),
    lr: number('lr'),
    alpha: number('alpha'),
    lambda: number('lambda'),
  };
  return { cmap, eps: number('eps'), attackSteps: number('pgdSteps'), attackStepSize: number('pgdStep') };
}
