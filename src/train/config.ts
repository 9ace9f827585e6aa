/** What a run is, completely: a flat list of settings that a person can read, with presets of it. */
import { rational } from '../attacks/spec.ts';
import { InputError } from '../engine/errors.ts';
import { readJson } from '../formats/read.ts';

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
  /** Checkpoint to start from; empty for random weights, for `cd` those of its teacher. */
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
  /**
   * An average's half-life is at most this share of the updates so far: rate r holds from update ln 2/(−r' ln r) on, r' this share
   * (0.9999: 138,622). 0 is none, as in the published code of consistency models.
   */
  average_rampup: 0.05,
  /** In U-Nets and WideResNets. */
  dropout: 0,
  /** Activation checkpointing. */
  recompute: false,
  /** f32, or f16: what checkpointing keeps between blocks in 16 bits. */
  recompute_storage: 'f32',

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

  /** Threads that make batches ahead of the updates; 0 is one for each core but one, at most 8. */
  workers: 0,
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
  'workers',
];

/** Settings that a run may be steered with on its way; the log says when. */
export const steerable = ['lr', 'clip', 'steps'] as const satisfies readonly (keyof TrainConfig)[];

/** What spreads over all steps, so that with another number of them the updates made would have been others; else null. */
export function spread({ schedule, task }: TrainConfig): string | null {
  if (schedule === 'cosine') return 'schedule=cosine';
  return task === 'ct' || task === 'ict' ? `N(k) of task ${task}` : null;
}

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
/** Song and Dhariwal 2024. */
const ict = {
  ...consistency,
  task: 'ict',
  distance: 'huber',
  dropout: 0.3,
  s0: 10,
  log_mean: -1.1,
  log_std: 2,
};
/** Standard deviation of the noise embedding's frequencies there, where others have 16. */
const ictEmbedding = { fourier_scale: 0.02 };
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
  'fashion-mnist-ict': { ...ict, net_config: { ...smallNcsnpp, ...ictEmbedding }, s1: 160 },
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
  'cifar10-cd': {
    ...consistency,
    ...{ task: 'cd', dataset: 'cifar10', net_config: cifarNcsnpp, flip: true, batch: 128 },
    ...{ distance: 'huber', s1: 18, mu0: 0, steps: 50000 },
  },
  'cifar10-ict': {
    ...ict,
    ...{ dataset: 'cifar10', net_config: { ...cifarNcsnpp, ...ictEmbedding }, flip: true },
    ...{ lr: 1e-4, batch: 128, s1: 1280, steps: 100000 },
  },
  'cifar10-ect': {
    ...consistency,
    ...{ task: 'ect', dataset: 'cifar10', net_config: cifarNcsnpp, flip: true, lr: 1e-4, batch: 128 },
    // One stage throughout, as the short recipe of ECT: a second one would have q squared.
    ...{ distance: 'huber', huber: 0, log_mean: -1.1, log_std: 2, q: 256, steps: 50000, stage_steps: 1e6 },
  },
  // The published recipes (Karras et al. 2022; Song et al. 2023; Song and Dhariwal 2024), for those who have the device for them.
  'cifar10-edm-published': {
    ...{
      dataset: 'cifar10',
      net_config: { nf: 128 },
      batch: 512,
      steps: 400000,
      warmup: 19532,
      dropout: 0.13,
    },
    ...{ averages: [0.9993], augment: 0.12, recompute: true },
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
      average_rampup: 0,
      flip: true,
      recompute: true,
    },
  },
  'cifar10-ict-published': {
    ...ict,
    ...{
      dataset: 'cifar10',
      net_config: { nf: 128, ...ictEmbedding },
      flip: true,
      lr: 1e-4,
      batch: 1024,
      steps: 400000,
      s1: 1280,
      averages: [0.99993],
      average_rampup: 0,
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
  // The paper's ImageNet-100 classifiers but for its mixup (AutoMix): ImageNet weights, a new last layer.
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
 * @throws InputError for a preset or a key that is not there, with those that are, and what `checked` refuses
 */
export function configure(preset: string, assignments: readonly string[]): TrainConfig {
  const base = Object.hasOwn(presets, preset) ? presets[preset] : undefined;
  if (!base)
    throw new InputError(
      `train: there is no preset "${preset}"; there are ${Object.keys(presets).join(', ')}`,
    );
  return adjusted({ ...defaults, ...base }, assignments);
}

/**
 * A configuration with single settings changed.
 * @param named settings beside the assigned ones that the user gave
 * @throws InputError as `configure`
 */
export function adjusted(
  base: TrainConfig,
  assignments: readonly string[],
  named: readonly (keyof TrainConfig)[] = [],
): TrainConfig {
  const config = structuredClone(base);
  const given = assignments.map((text) => {
    const at = text.indexOf('=');
    if (at < 1) throw new InputError(`train: "${text}" is not KEY=VALUE`);
    return assign(config, text.slice(0, at), text.slice(at + 1));
  });
  return checked(config, [...named, ...given]);
}

/**
 * The configuration in a JSON file, such as a run's config.json, with single settings changed; what the file leaves out has its default.
 * @throws InputError for what is no configuration, and as `configure`
 */
export function configureFrom(path: string, assignments: readonly string[]): TrainConfig {
  const given = readJson(path);
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw new InputError(`${path}: not an object of settings`);
  for (const [key, value] of Object.entries(given)) {
    known(key, path);
    const usual: unknown = defaults[key as keyof TrainConfig];
    const fits = Array.isArray(usual)
      ? Array.isArray(value) && value.every((v) => typeof v === 'number')
      : typeof value === typeof usual && value !== null && !Array.isArray(value);
    if (!fits)
      throw new InputError(
        `${path}: ${key} is ${JSON.stringify(value)}, wants what is like ${JSON.stringify(usual)}`,
      );
  }
  const base: TrainConfig = { ...defaults, ...given };
  const unusual = (Object.keys(given) as (keyof TrainConfig)[]).filter(
    (key) => JSON.stringify(base[key]) !== JSON.stringify(defaults[key]),
  );
  return adjusted(base, assignments, unusual);
}

function known(key: string, where: string): void {
  if (!Object.hasOwn(defaults, key))
    throw new InputError(
      `${where}: there is no setting "${key}"; there are ${Object.keys(defaults).join(', ')}`,
    );
}

/** @returns the setting that was changed */
function assign(config: TrainConfig, key: string, value: string): keyof TrainConfig {
  const [first, second, ...rest] = key.split('.') as [keyof TrainConfig, ...string[]];
  known(first, 'train');
  const settings = config as Record<string, unknown>;
  if (second !== undefined) {
    if (first !== 'net_config' || rest.length > 0)
      throw new InputError(`train: ${first} has no parts; "${key}" is none`);
    config.net_config[second] = parsed(value);
    return first;
  }
  const old: unknown = defaults[first];
  const fail = (wanted: string): never => {
    throw new InputError(`train: ${key} wants ${wanted}, got "${value}"`);
  };
  if (typeof old === 'string') settings[key] = value;
  else if (typeof old === 'number') {
    const number = rational(value);
    settings[key] = Number.isNaN(number) ? fail('a number') : number;
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
  return first;
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
  optimiser: ['adam', 'radam', 'sgd'],
  schedule: ['constant', 'cosine'],
  adversarial: ['none', 'pgd', 'trades'],
  recompute_storage: ['f32', 'f16'],
  distance: ['l2', 'l1', 'huber', 'lpips'],
  solver: ['euler', 'heun'],
};

/** Numbers in words and as a test. */
type Range = readonly [words: string, within: (value: number) => boolean];

const integer = (least: number): Range => [
  `an integer of at least ${least}`,
  (v) => Number.isSafeInteger(v) && v >= least,
];
const above: Range = ['above 0', (v) => v > 0];
const fromZero: Range = ['at least 0', (v) => v >= 0];
const share: Range = ['in [0, 1]', (v) => v >= 0 && v <= 1];
const rate: Range = ['in [0, 1)', (v) => v >= 0 && v < 1];

const ranges: Partial<Record<keyof TrainConfig, Range>> = {
  count: integer(0),
  workers: integer(0),
  steps: integer(1),
  batch: integer(1),
  accumulate: integer(1),
  seed: integer(0),
  lr: above,
  warmup: integer(0),
  beta1: rate,
  beta2: rate,
  eps: fromZero,
  momentum: rate,
  weight_decay: fromZero,
  clip: ['at least 0 (0 is none)', (v) => v >= 0],
  average_rampup: share,
  dropout: rate,
  augment: share,
  crop: integer(0),
  mixup: ['in [0, 2]', (v) => v >= 0 && v <= 2],
  smoothing: share,
  attack_eps: ['above 0, at most 1', (v) => v > 0 && v <= 1],
  attack_steps: integer(1),
  attack_step_size: above,
  trades_beta: fromZero,
  sigma_min: above,
  sigma_max: above,
  sigma_data: above,
  log_std: above,
  lpips_size: integer(0),
  huber: ['at least 0, or -1 for the published', (v) => v >= 0 || v === -1],
  s0: integer(2),
  s1: integer(2),
  mu0: rate,
  q: ['above 1', (v) => v > 1],
  stage_steps: integer(1),
  log_every: integer(1),
  checkpoint_every: integer(1),
  sample_every: integer(0),
};

/** A setting has an effect only where another has one of these values, and that other has an effect itself. */
type Owner = readonly [key: keyof TrainConfig, ...values: unknown[]];

const moments: Owner = ['optimiser', 'adam', 'radam'];
const attacked: Owner = ['adversarial', 'pgd', 'trades'];
const classifying: Owner = ['task', 'classifier'];
const generative: Owner = ['task', 'edm', 'ct', 'cd', 'ict', 'ect'];
const randomLevels: Owner = ['task', 'edm', 'ict', 'ect'];

const owners: Partial<Record<keyof TrainConfig, Owner>> = {
  data: ['dataset', 'fashion-mnist', 'cifar10', 'image-folder'],
  teacher: ['task', 'cd'],
  trained: classifying,
  beta1: moments,
  beta2: moments,
  eps: moments,
  momentum: ['optimiser', 'sgd'],
  nesterov: ['optimiser', 'sgd'],
  recompute_storage: ['recompute', true],
  augment: ['task', 'edm'],
  mixup: classifying,
  smoothing: classifying,
  adversarial: classifying,
  attack_eps: attacked,
  attack_steps: attacked,
  attack_step_size: attacked,
  trades_beta: ['adversarial', 'trades'],
  sigma_min: generative,
  sigma_max: generative,
  sigma_data: generative,
  log_mean: randomLevels,
  log_std: randomLevels,
  distance: ['task', 'ct', 'cd', 'ict', 'ect'],
  lpips: ['distance', 'lpips'],
  lpips_size: ['distance', 'lpips'],
  huber: ['distance', 'huber'],
  s0: ['task', 'ct', 'ict'],
  s1: ['task', 'ct', 'cd', 'ict'],
  mu0: ['task', 'ct', 'cd'],
  q: ['task', 'ect'],
  stage_steps: ['task', 'ect'],
  solver: ['task', 'cd'],
};

/** What the setting belongs to where it has no effect, else null. */
function idle(config: TrainConfig, key: keyof TrainConfig): string | null {
  if (key === 'decay_matrices_only') return config.weight_decay > 0 ? null : 'weight_decay above 0';
  if (key === 'average_rampup') return config.averages.length > 0 ? null : 'averages';
  if (key === 'flip') return config.augment === 0 ? null : 'augment=0, since augmentation mirrors by itself';
  const owner = owners[key];
  if (!owner) return null;
  const [other, ...values] = owner;
  // Of a chain the root says most: huber without a distance is a matter of the task.
  const root = idle(config, other);
  if (root !== null) return root;
  return values.includes(config[other]) ? null : `${other}=${values.join(' or ')}`;
}

/** Turned off is what a setting without effect is. */
const off = (value: unknown) =>
  value === 0 || value === '' || value === 'none' || value === 'all' || value === 'f32' || value === false;

/**
 * @param given the settings that the user named, of which each must have an effect
 * @throws InputError for a setting out of its range, without effect, or excluded by another
 */
export function checked(config: TrainConfig, given: readonly (keyof TrainConfig)[] = []): TrainConfig {
  const refuse = (problem: string): never => {
    throw new InputError(`train: ${problem}`);
  };
  for (const [key, allowed] of Object.entries(choices)) {
    const value = config[key as keyof TrainConfig] as string;
    if (!allowed.includes(value)) refuse(`${key} is one of ${allowed.join(', ')}, got "${value}"`);
  }
  for (const [key, [words, within]] of Object.entries(ranges)) {
    const value = config[key as keyof TrainConfig] as number;
    if (!Number.isFinite(value) || !within(value)) refuse(`${key} must be ${words}, got ${value}`);
  }
  for (const value of config.averages)
    if (!rate[1](value)) refuse(`a rate of averages must be ${rate[0]}, got ${value}`);
  if (new Set(config.averages).size < config.averages.length)
    refuse(`averages must differ from each other, got ${config.averages.join(', ')}`);
  for (const key of given) {
    const owner = idle(config, key);
    if (owner !== null && !off(config[key]))
      refuse(
        `${key}=${JSON.stringify(config[key])} has no effect here: it belongs to ${owner}; leave it out`,
      );
  }
  const { task, sigma_min, sigma_max, s0, s1, optimiser, nesterov, momentum, adversarial, mixup } = config;
  if (sigma_min >= sigma_max) refuse(`sigma_min must be below sigma_max, got ${sigma_min} and ${sigma_max}`);
  if (['ct', 'ict'].includes(task) && s0 > s1) refuse(`s0 must be at most s1, got ${s0} and ${s1}`);
  if (optimiser === 'sgd' && nesterov && momentum === 0)
    refuse('nesterov wants a momentum above 0; set nesterov=false');
  if (adversarial !== 'none' && mixup > 0)
    refuse(`mixup and adversarial=${adversarial} exclude each other; set mixup=0`);
  return config;
}

const lpipsFiles =
  'lpips=BACKBONE,LIN, torchvision’s vgg16 or alexnet and the lpips package’s weights/v0.1/vgg.pth or alex.pth';

/** @throws InputError when files are missing that the run cannot begin without */
export function checkFiles({
  task,
  teacher,
  trained,
  init,
  distance,
  lpips,
  dataset,
  data,
}: TrainConfig): void {
  const refuse = (problem: string): never => {
    throw new InputError(`train: ${problem}`);
  };
  if (task === 'cd' && teacher === '')
    refuse('cd wants teacher=FILE, a denoiser’s checkpoint of the same network');
  if (task === 'classifier' && trained === 'head' && init === '')
    refuse('trained=head wants init=FILE, a checkpoint to start from');
  if (task !== 'edm' && task !== 'classifier' && distance === 'lpips' && lpips === '')
    refuse(`distance=lpips wants its weights: ${lpipsFiles}; or take l2, l1 or huber`);
  if (dataset === 'image-folder' && data === '')
    refuse('dataset=image-folder wants data=DIR, which holds train/ and val/');
}
