/** What entries of weights/manifest.json become, wherever they were read; models.ts has files, browser.ts fetches. */
import { type CmapOptions, paperCifar10 } from './cmap/options.ts';
import type { Device } from './engine/device.ts';
import { InputError } from './engine/errors.ts';
import type { ManifestEntry } from './formats/manifest.ts';
import { ClassifierNet } from './nets/classifier.ts';
import { ConsistencyModel, publishedSigmas, type Sigmas } from './nets/consistency.ts';
import { ncsnpp } from './nets/ncsnpp.ts';
import type { TensorSource } from './nets/parameters.ts';
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

/** @throws InputError when the entry is of another kind, or does not fit its file */
export function consistencyModelOf(
  device: Device,
  name: string,
  entry: ManifestEntry,
  source: TensorSource,
): LoadedModel {
  checkKind(name, entry, 'ncsnpp');
  if (isDenoiserEntry(entry))
    throw new InputError(`${name} is an EDM denoiser, a consistency model is wanted here`);
  const sigmas = (entry.sigma as Sigmas | undefined) ?? publishedSigmas;
  return { name, net: ConsistencyModel.load(device, ncsnpp(entry.config), source, { sigmas }) };
}

/** @throws InputError when the entry is of another kind, or does not fit its file */
export function classifierOf(
  device: Device,
  name: string,
  entry: ManifestEntry,
  source: TensorSource,
): LoadedClassifier {
  checkKind(name, entry, 'wide_resnet');
  const net = ClassifierNet.load(device, wideResNet(entry.config), source);
  const classes =
    (entry.classes as string[] | undefined) ?? Array.from({ length: net.classes }, (_, i) => `class ${i}`);
  return { name, net, classes };
}

/** Of a consistency model's architecture, but an EDM denoiser. */
export const isDenoiserEntry = (entry: ManifestEntry | undefined) => entry?.objective === 'edm';

function checkKind(name: string, { kind }: ManifestEntry, wanted: string): void {
  if (kind !== wanted) throw new InputError(`${name} is a ${kind}, a ${wanted} is wanted here`);
}

/** Hyper-parameters tuned for a data set's shipped models; measured, see weights/README.md. */
export interface Preset {
  readonly cmap: CmapOptions;
  readonly eps: number;
  readonly attackSteps: number;
  readonly attackStepSize: number;
}

/** @param where names the preset in errors @throws InputError where it lacks a number */
export function presetFrom(found: Readonly<Record<string, unknown>>, where: string): Preset {
  const number = (field: string) => {
    const value = found[field];
    if (typeof value !== 'number')
      throw new InputError(`${where}.${field} is ${JSON.stringify(value)}, not a number`);
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
