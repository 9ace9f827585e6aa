/** The shipped networks by name, and the hyper-parameters that go with a data set. */
import { join } from 'node:path';
import type { Device } from './engine/device.ts';
import { InputError } from './engine/errors.ts';
import { readManifest, resolveWeights, weightsFolder } from './formats/manifest.ts';
import { readJson } from './formats/read.ts';
import { openSafetensors } from './formats/safetensors.node.ts';
import {
  classifierOf,
  consistencyModelOf,
  type LoadedClassifier,
  type LoadedModel,
  type Preset,
  presetFrom,
} from './shipped.ts';

/** @param name of an entry of weights/manifest.json @throws InputError when it is missing, damaged or another kind */
export function loadConsistencyModel(device: Device, name = 'fashion-mnist-consistency'): LoadedModel {
  const { entry, path } = resolveWeights(name);
  return consistencyModelOf(device, name, entry, openSafetensors(path));
}

/** @param name of an entry of weights/manifest.json @throws InputError when it is missing, damaged or another kind */
export function loadClassifier(device: Device, name = 'fashion-mnist-wrn'): LoadedClassifier {
  const { entry, path } = resolveWeights(name);
  return classifierOf(device, name, entry, openSafetensors(path));
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

/** Networks and hyper-parameters of a data set; undefined where none are shipped. */
export function presetOf(dataset: string): Record<string, unknown> | undefined {
  const { presets = {} } = readJson(join(weightsFolder(), 'manifest.json')) as {
    presets?: Record<string, Record<string, unknown>>;
  };
  return Object.hasOwn(presets, dataset) ? presets[dataset] : undefined;
}

/** @throws InputError when the data set has none, or one that lacks a number */
export function loadPreset(name: string): Preset {
  const path = join(weightsFolder(), 'manifest.json');
  const found = presetOf(name);
  if (!found) throw new InputError(`${path}: no preset "${name}"`);
  return presetFrom(found, `${path}: presets.${name}`);
}
