/** Options that name a network and its checkpoint, and the arrays that go through it. */
import { type Command, Option } from 'commander';
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import { toFloat32 } from '../formats/array.ts';
import { openCheckpoint } from '../formats/checkpoint.ts';
import { channelsFirst, channelsLast } from '../formats/layout.ts';
import { readManifest, resolveWeights } from '../formats/manifest.ts';
import { readNpy, writeNpy } from '../formats/npy.ts';
import { readJson } from '../formats/read.ts';
import { ClassifierNet } from '../nets/classifier.ts';
import { ConsistencyModel, type Sigmas, sigmaSettings, sigmasAfter } from '../nets/consistency.ts';
import { trainedWith } from '../nets/parameters.ts';
import { network, networkNames } from '../nets/registry.ts';
import { ScoreNetwork } from '../nets/score.ts';
import { progress } from '../report/progress.ts';
import { isDenoiserEntry } from '../shipped.ts';
import { checkCount } from './datasets.ts';
import { type CommonOptions, parseInteger } from './options.ts';

export interface NetworkOptions extends CommonOptions {
  readonly net?: string;
  readonly netConfig?: string;
  readonly weights?: string;
  readonly prefix?: string;
  readonly recompute?: boolean;
}

export function addNetworkOptions(command: Command): Command {
  return command
    .option('--net <name>', 'network; see the list below')
    .option('--net-config <file>', 'JSON of settings that differ from the named network’s')
    .option('--weights <file>', 'checkpoint: safetensors, PyTorch, Flax msgpack or npz; or a shipped name')
    .option('--prefix <text>', 'before the network’s names in the checkpoint; found out when not given')
    .option('--recompute', 'activation checkpointing: less memory, about a third more work')
    .addHelpText('after', `\nNetworks: ${networkNames.join(', ')}.`);
}

/** How many images go through together; results do not depend on it. */
export const batchOption = (what: string) =>
  new Option('--batch <n>', `${what} together; bounds the memory`).argParser(parseInteger);

/** --batch, else `usual`. @throws InputError */
export function batchOf({ batch }: { readonly batch?: number | undefined }, usual: number): number {
  const count = batch ?? usual;
  checkCount('--batch', count);
  return count;
}

export type LoadedNetwork =
  /** `edm`: its weights are a denoiser's, in whose scalings σ_min is 0. */
  | { readonly kind: 'consistency'; readonly net: ConsistencyModel; readonly edm: boolean }
  | { readonly kind: 'score'; readonly net: ScoreNetwork }
  | { readonly kind: 'classifier'; readonly net: ClassifierNet };

/** What the flags name: a network, its configuration, and a checkpoint, perhaps a shipped one. @throws InputError */
function namedNetwork(options: NetworkOptions) {
  const { weights } = options;
  if (weights === undefined)
    throw new InputError('--weights is missing: the checkpoint, or a name of weights/manifest.json');
  const manifest = readManifest();
  const shipped = Object.hasOwn(manifest, weights) ? resolveWeights(weights) : undefined;
  let name = options.net;
  let config: Record<string, unknown> | undefined;
  // A shipped name stands for its architecture, whatever the checkpoint.
  const entry =
    name === undefined ? shipped?.entry : Object.hasOwn(manifest, name) ? manifest[name] : undefined;
  if (entry) {
    name = { ncsnpp: 'ncsnpp', wide_resnet: 'wrn' }[entry.kind] ?? entry.kind;
    config = {
      ...entry.config,
      ...(entry.sigma ? sigmaSettings(entry.kind, entry.sigma as Sigmas) : {}),
    };
  }
  if (name === undefined) throw new InputError(`--net is missing: one of ${networkNames.join(', ')}`);
  if (options.netConfig !== undefined) {
    const given = readJson(options.netConfig);
    if (typeof given !== 'object' || given === null || Array.isArray(given))
      throw new InputError(`${options.netConfig}: not a JSON object of settings`);
    config = { ...config, ...given };
  }
  return { name, config, path: shipped?.path ?? weights, edm: isDenoiserEntry(shipped?.entry) };
}

/** Refuses names and settings that no network has, before a device is opened for them. @throws InputError */
export function checkNetwork(options: NetworkOptions): void {
  const { name, config } = namedNetwork(options);
  network(name, config);
}

/**
 * Opens the checkpoint and the network it belongs to.
 * @throws InputError when either is missing or they do not fit
 */
export async function loadNetwork(device: Device, options: NetworkOptions): Promise<LoadedNetwork> {
  const { prefix, recompute } = options;
  const { name, config, path, edm: shippedDenoiser } = namedNetwork(options);
  const source = await openCheckpoint(path);
  try {
    const found = network(name, config, source);
    const bar = progress('load', 1, { quiet: options.quiet });
    const bind = {
      prefix,
      onTensor: (done: number, total: number) => bar.update(done / total),
    };
    try {
      switch (found.kind) {
        case 'consistency': {
          const task = shippedDenoiser ? 'edm' : trainedWith(source).task;
          return {
            kind: found.kind,
            edm: task === 'edm',
            net: ConsistencyModel.load(device, found.unet, source, {
              ...bind,
              recompute: recompute ?? false,
              sigmas: sigmasAfter(task, found.sigmas),
            }),
          };
        }
        case 'score':
          return { kind: found.kind, net: ScoreNetwork.load(device, found.unet, source, bind) };
        case 'classifier':
          return { kind: found.kind, net: ClassifierNet.load(device, found.architecture, source, bind) };
      }
    } finally {
      bar.stop();
    }
  } finally {
    source.close();
  }
}

export interface Images {
  /** [N, H, W, C]. */
  readonly data: Float32Array;
  readonly shape: readonly [number, number, number, number];
}

/**
 * A float array [N, C, H, W] of a .npy file, channels last.
 * @throws InputError when it has another rank or type, or holds a number that is not finite
 */
export function readImagesNpy(path: string): Images {
  const { data, shape } = readFloats(path);
  if (shape.length !== 4) throw new InputError(`${path}: shape (${shape.join(', ')}) is not (N, C, H, W)`);
  const [n, c, h, w] = shape as [number, number, number, number];
  return { data: channelsLast(data, [c, h, w]), shape: [n, h, w, c] };
}

/** The floats of a .npy file as they lie. @throws InputError */
export function readFloats(path: string): { data: Float32Array; shape: readonly number[] } {
  const array = readNpy(path);
  if (!(array.data instanceof Float32Array || array.data instanceof Float64Array))
    throw new InputError(`${path}: holds integers; save floats with array.astype("float32")`);
  const data = toFloat32(array.data);
  if (data.length === 0) throw new InputError(`${path}: shape (${array.shape.join(', ')}) holds nothing`);
  const bad = data.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0)
    throw new InputError(`${path}: element ${bad} of ${data.length} is ${data[bad]}, not a finite number`);
  return { data, shape: array.shape };
}

/** Writes [..., H, W, C] as [..., C, H, W]. */
export function writeImagesNpy(path: string, data: Float32Array, shape: readonly number[]): void {
  const [h, w, c] = shape.slice(-3) as [number, number, number];
  writeNpy(path, { shape: [...shape.slice(0, -3), c, h, w], data: channelsFirst(data, [h, w, c]) });
}

/** @throws InputError when the images are not of the network's shape */
export function checkImages(path: string, images: Images, wanted: readonly number[], anySize = false): void {
  const [, h, w, c] = images.shape;
  const [height, width, channels] = wanted;
  if (c === channels && (anySize || (h === height && w === width))) return;
  throw new InputError(
    `${path}: images are (${c}, ${h}, ${w}), the network wants (${channels}, ${anySize ? 'H, W' : `${height}, ${width}`})`,
  );
}
