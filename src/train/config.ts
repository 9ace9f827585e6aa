/** What a run is, completely: a flat list of settings that a person can read, with presets of it. */
import { InputError } from '../engine/errors.ts';

export const defaults = {
  /** edm, ct, cd, ict, ect or classifier. */
  task: 'edm',
  /** fashion-mnist, fashion-mnist-1000 (the images that come with the package), cifar10, or image-folder. */
  dataset: 'fashion-mnist',
  /** Its folder; empty for where `cmap data` puts it. */
  data: '',
  /** The first so many training images; 0 is all. */
  count: 0,
  /** A network or family of networks, and its configuration. */
  net: 'ncsnpp',
  net_config: {} as Record<string, unknown>,
  /** Checkpoint to start from; empty for random weights. */
  init: '',
  /** Checkpoint of the denoiser that `cd` distils. */
  teacher: '',
  /** Which parameters move: all, or the last layer (head). */
  trained: 'all',
  steps: 10000,
  /** Images of a pass. */
  batch: 64,
  /** Passes of an update: its gradient is that of batch·accumulate images, in the memory of batch. */
  accumulate: 1,
  seed: 0,

  optimiser: 'adam',
  lr: 1e-3,
  /** constant or cosine. */
  schedule: 'constant',
  /** Steps of a linear rise. */
  warmup: 0,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  momentum: 0.9,
  nesterov: true,
  weight_decay: 0,
  /** Spare biases and norms. */
  decay_matrices_only: false,
  /** Largest norm of the gradient; 0 is none. */
  clip: 0,
  /** Rates of the moving averages; the first is what is exported. */
  averages: [0.999] as number[],
  /** In U-Nets and WideResNets. */
  dropout: 0,
  /** Activation checkpointing. */
  recompute: false,

  /** Probability of each geometric augmentation of a denoiser's images, of which it is told (Karras et al. 2022, App. F.2); 0 is none. */
  augment: 0,
  flip: false,
  /** Pixels of shift. */
  crop: 0,
  mixup: 0,
  smoothing: 0,
  /** none, pgd or trades. */
  adversarial: 'none',
  attack_eps: 8 / 255,
  attack_steps: 10,
  attack_step_size: 2 / 255,
  trades_beta: 6,

  sigma_min: 0.002,
  sigma_max: 80,
  sigma_data: 0.5,
  /** Of ln σ where it is normally distributed. */
  log_mean: -1.2,
  log_std: 1.2,
  /** l2, l1, huber, or lpips. */
  distance: 'l2',
  /** Weights of LPIPS: FILE or BACKBONE,LIN. */
  lpips: '',
  /** Side to which images are brought for LPIPS; 0 leaves them. */
  lpips_size: 224,
  /** c of huber; -1 is .00054 times the root of the image's size. */
  huber: -1,
  s0: 2,
  s1: 150,
  mu0: 0.9,
  q: 2,
  /** Steps of an ECT stage. */
  stage_steps: 25000,
  /** euler or heun. */
  solver: 'heun',

  /** Steps between readings of the losses. */
  log_every: 50,
  checkpoint_every: 1000,
  /** Steps between sample grids, or tests of a classifier; 0 is only at the end. */
  sample_every: 1000,
};

export type TrainConfig = typeof defaults;

/** Settings that do not change what a step computes. */
export const resumable: readonly (keyof TrainConfig)[] = [
  'log_every',
  'checkpoint_every',
  'sample_every',
  'data',
];

const smallNcsnpp = {
  image_size: 28,
  num_channels: 1,
  nf: 24,
  ch_mult: [1, 2],
  num_res_blocks: 1,
  attn_resolutions: [7],
  patch_size: 2,
};
const cifarNcsnpp = { nf: 96, ch_mult: [1, 1], num_res_blocks: 3, attn_resolutions: [8], patch_size: 4 };
const consistency = { optimiser: 'radam', lr: 4e-4, averages: [0.9999] };
const sgd = {
  task: 'classifier',
  optimiser: 'sgd',
  lr: 0.1,
  schedule: 'cosine',
  batch: 128,
  weight_decay: 5e-4,
  averages: [] as number[],
  flip: true,
  crop: 4,
};
const fashionWrn = { depth: 10, widen_factor: 1, in_channels: 1, image_size: 28 };

/** Presets: what differs from `defaults`. */
export const presets: Readonly<Record<string, Partial<TrainConfig>>> = {
  'fashion-mnist-edm': {
    net_config: smallNcsnpp,
    lr: 1.5e-3,
    schedule: 'cosine',
    warmup: 200,
    log_mean: -0.8,
    log_std: 1.4,
  },
  'fashion-mnist-ct': { ...consistency, task: 'ct', net_config: smallNcsnpp, distance: 'huber' },
  'fashion-mnist-cd': {
    ...consistency,
    task: 'cd',
    net_config: smallNcsnpp,
    s1: 18,
    mu0: 0,
    distance: 'huber',
  },
  'fashion-mnist-ict': {
    ...consistency,
    ...{
      task: 'ict',
      net_config: smallNcsnpp,
      distance: 'huber',
      s0: 10,
      s1: 160,
      log_mean: -1.1,
      log_std: 2,
    },
  },
  'fashion-mnist-ect': {
    ...consistency,
    ...{
      task: 'ect',
      net_config: smallNcsnpp,
      distance: 'huber',
      huber: 0,
      log_mean: -1.1,
      log_std: 2,
      q: 256,
    },
  },
  'fashion-mnist-wrn': {
    ...sgd,
    net: 'wrn',
    net_config: fashionWrn,
    crop: 2,
    weight_decay: 2e-4,
    steps: 5000,
  },
  'cifar10-edm': {
    dataset: 'cifar10',
    net_config: cifarNcsnpp,
    flip: true,
    schedule: 'cosine',
    warmup: 500,
    steps: 100000,
    batch: 128,
  },
  'cifar10-ect': {
    ...consistency,
    ...{ task: 'ect', dataset: 'cifar10', net_config: cifarNcsnpp, flip: true, lr: 1e-4, batch: 128 },
    ...{ distance: 'huber', huber: 0, log_mean: -1.1, log_std: 2, q: 256, steps: 50000 },
  },
  // The published recipes (Song et al. 2023; Karras et al. 2022), for those who have the device for them.
  'cifar10-edm-published': {
    ...{
      dataset: 'cifar10',
      net_config: { nf: 128 },
      batch: 512,
      steps: 400000,
      warmup: 19532,
      dropout: 0.13,
    },
    ...{ averages: [0.9993], flip: true, recompute: true },
  },
  'cifar10-ct-published': {
    ...consistency,
    ...{
      task: 'ct',
      dataset: 'cifar10',
      net_config: { nf: 128 },
      batch: 512,
      steps: 800000,
      distance: 'lpips',
      recompute: true,
    },
  },
  'cifar10-wrn': { ...sgd, dataset: 'cifar10', net: 'wrn-16-4', steps: 39000, smoothing: 0.1 },
  'cifar10-wrn-adversarial': {
    ...sgd,
    dataset: 'cifar10',
    net: 'wrn-16-4',
    steps: 39000,
    adversarial: 'pgd',
  },
  'cifar10-wrn-trades': { ...sgd, dataset: 'cifar10', net: 'wrn-16-4', steps: 39000, adversarial: 'trades' },
  // The paper's ImageNet-100 classifiers: ImageNet weights, a new last layer.
  'imagenet100-resnet50': {
    ...{
      ...sgd,
      dataset: 'image-folder',
      net: 'resnet50',
      trained: 'head',
      lr: 0.01,
      steps: 10000,
      crop: 8,
      weight_decay: 1e-4,
    },
  },
};

/**
 * A preset with single settings changed.
 * @param assignments KEY=VALUE; a setting of the network as net_config.KEY=VALUE
 * @throws InputError for a preset or a key that is not there, with those that are, or a value of another type
 */
export function configure(preset: string, assignments: readonly string[]): TrainConfig {
  const base = Object.hasOwn(presets, preset) ? presets[preset] : undefined;
  if (!base)
    throw new InputError(
      `train: there is no preset "${preset}"; there are ${Object.keys(presets).join(', ')}`,
    );
  const config: TrainConfig = structuredClone({ ...defaults, ...base });
  for (const text of assignments) {
    const at = text.indexOf('=');
    if (at < 1) throw new InputError(`train: "${text}" is not KEY=VALUE`);
    assign(config, text.slice(0, at), text.slice(at + 1));
  }
  return checked(config);
}

function assign(config: TrainConfig, key: string, value: string): void {
  const [first, second, ...rest] = key.split('.') as [keyof TrainConfig, ...string[]];
  if (!Object.hasOwn(defaults, first))
    throw new InputError(
      `train: there is no setting "${first}"; there are ${Object.keys(defaults).join(', ')}`,
    );
  const settings = config as Record<string, unknown>;
  if (second !== undefined) {
    if (first !== 'net_config' || rest.length > 0)
      throw new InputError(`train: ${first} has no parts; "${key}" is none`);
    config.net_config[second] = parsed(value);
    return;
  }
  const old: unknown = defaults[first];
  const fail = (wanted: string): never => {
    throw new InputError(`train: ${key} wants ${wanted}, got "${value}"`);
  };
  if (typeof old === 'string') settings[key] = value;
  else if (typeof old === 'number') {
    const parts = value.split('/').map((part) => (part.trim() === '' ? Number.NaN : Number(part)));
    const number = parts.length <= 2 ? parts.reduce((a, b) => a / b) : Number.NaN;
    settings[key] = Number.isFinite(number) ? number : fail('a number');
  } else if (typeof old === 'boolean')
    settings[key] = value === 'true' || (value === 'false' ? false : fail('true or false'));
  else if (Array.isArray(old)) {
    const list =
      value === '' || value === '[]'
        ? []
        : value
            .replace(/^\[|\]$/g, '')
            .split(',')
            .map(Number);
    settings[key] = list.every((n) => Number.isFinite(n)) ? list : fail('numbers such as 0.999,0.9999');
  } else {
    const object = parsed(value);
    settings[key] =
      typeof object === 'object' && object !== null && !Array.isArray(object)
        ? object
        : fail('a JSON object');
  }
}

/** JSON, or the text itself. */
function parsed(value: string): unknown {
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

const choices: Partial<Record<keyof TrainConfig, readonly string[]>> = {
  task: ['edm', 'ct', 'cd', 'ict', 'ect', 'classifier'],
  dataset: ['fashion-mnist', 'fashion-mnist-1000', 'cifar10', 'image-folder'],
  trained: ['all', 'head'],
  schedule: ['constant', 'cosine'],
  adversarial: ['none', 'pgd', 'trades'],
};

/** @throws InputError for a setting out of its range */
export function checked(config: TrainConfig): TrainConfig {
  for (const [key, allowed] of Object.entries(choices)) {
    const value = config[key as keyof TrainConfig] as string;
    if (!allowed.includes(value))
      throw new InputError(`train: ${key} is one of ${allowed.join(', ')}, got "${value}"`);
  }
  const counts = {
    steps: 1,
    batch: 1,
    accumulate: 1,
    seed: 0,
    count: 0,
    warmup: 0,
    log_every: 1,
    checkpoint_every: 1,
    sample_every: 0,
  };
  for (const [key, least] of Object.entries(counts)) {
    const value = config[key as keyof TrainConfig] as number;
    if (!Number.isSafeInteger(value) || value < least)
      throw new InputError(`train: ${key} must be an integer of at least ${least}, got ${value}`);
  }
  for (const rate of config.averages)
    if (!(rate >= 0 && rate < 1))
      throw new InputError(`train: a rate of averages must be in [0, 1), got ${rate}`);
  if (!(config.dropout >= 0 && config.dropout < 1))
    throw new InputError(`train: dropout must be in [0, 1), got ${config.dropout}`);
  if (!(config.augment >= 0 && config.augment <= 1))
    throw new InputError(`train: augment must be in [0, 1], got ${config.augment}`);
  if (config.augment > 0 && config.task !== 'edm')
    throw new InputError(`train: augment is built for task edm, not ${config.task}; set augment=0`);
  return config;
}
