/**
 * WideResNets (Zagoruyko & Komodakis 2016), pre-activation blocks in three stages, in two published forms:
 * RobustBench's "Standard" family (`wideResNet`) and DeepMind's (Gowal et al. 2020, `dmWideResNet`), which normalises
 * inside, uses Swish, and pads strided convolutions on the right and the bottom only. Parameter names are those of
 * their PyTorch state_dicts.
 */
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add } from '../kernels/broadcast.ts';
import { conv2d } from '../kernels/conv2d.ts';
import { relu, silu } from '../kernels/elementwise.ts';
import { linear } from '../kernels/matmul.ts';
import { globalAveragePool } from '../kernels/pool.ts';
import { slice } from '../kernels/shape.ts';
import {
  type Architecture,
  blockOf,
  type ClassifierForwardOptions,
  cifar10Normalisation,
  normalise,
} from './classifier.ts';
import { type Parameters, StateDict } from './parameters.ts';
import { checkCounts, withDefaults } from './unet.ts';

export interface WideResNetConfig {
  /** 6n + 4. */
  readonly depth: number;
  readonly widen_factor: number;
  readonly num_classes: number;
  readonly in_channels: number;
  readonly image_size: number;
  /** Of each channel, subtracted and divided by inside; none where empty. */
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

export const wrn28x10: WideResNetConfig = {
  depth: 28,
  widen_factor: 10,
  num_classes: 10,
  in_channels: 3,
  image_size: 32,
  mean: [],
  std: [],
};

interface Block {
  readonly name: string;
  readonly in: number;
  readonly out: number;
  readonly stride: number;
}

/** The published avg_pool2d(8) sees the one whole window of 8×8 of a last side of 9 to 15, as of images of 33 to 60. */
function pooled(h: Tensor): Tensor {
  const side = h.shape[1] as number;
  return globalAveragePool(side > 8 && side < 16 ? slice(slice(h, 1, 0, 8), 2, 0, 8) : h);
}

/** @param name of block `index` of stage 0..2 */
function blocksOf(config: WideResNetConfig, name: (stage: number, index: number) => string): Block[] {
  const { depth, widen_factor, num_classes, in_channels, image_size } = config;
  checkCounts('wide_resnet config', { widen_factor, num_classes, in_channels, image_size });
  if ((depth - 4) % 6 !== 0 || depth < 10)
    throw new InputError(`wide_resnet config: depth must be 6n + 4, got ${depth}`);
  const blocks: Block[] = [];
  let width = 16;
  for (let stage = 0; stage < 3; stage++) {
    const out = 16 * widen_factor * 2 ** stage;
    for (let i = 0; i < (depth - 4) / 6; i++) {
      blocks.push({ name: name(stage, i), in: width, out, stride: i === 0 && stage > 0 ? 2 : 1 });
      width = out;
    }
  }
  return blocks;
}

function checkConstants(what: string, { mean, std, in_channels }: WideResNetConfig): void {
  for (const [name, values] of Object.entries({ mean, std }))
    if (!Array.isArray(values) || values.length !== in_channels || !values.every(Number.isFinite))
      throw new InputError(`${what}: ${name} must be a list of ${in_channels} numbers`);
  if (std.some((value) => value <= 0)) throw new InputError(`${what}: std [${std}] must be above 0`);
}

/** @throws InputError when the configuration cannot be built */
export function wideResNet(given: Partial<WideResNetConfig>): Architecture {
  const config = withDefaults('wide_resnet config', given, wrn28x10);
  const { in_channels, image_size, num_classes, mean, std } = config;
  const normalises = [mean, std].some((values) => !Array.isArray(values) || values.length > 0);
  if (normalises) checkConstants('wide_resnet config', config);
  const blocks = blocksOf(config, (stage, i) => `block${stage + 1}.layer.${i}`);
  const last = (blocks.at(-1) as Block).out;
  const file = new StateDict();
  file.conv('conv1', 3, in_channels, 16, { bias: false });
  for (const { name, in: from, out } of blocks) {
    file.batchNorm(`${name}.bn1`, from);
    file.conv(`${name}.conv1`, 3, from, out, { bias: false });
    file.batchNorm(`${name}.bn2`, out);
    file.conv(`${name}.conv2`, 3, out, out, { bias: false });
    if (from !== out) file.conv(`${name}.convShortcut`, 1, from, out, { bias: false });
  }
  file.batchNorm('bn1', last);
  file.linear('fc', last, num_classes);
  return {
    family: 'wide_resnet',
    classes: num_classes,
    imageShape: [image_size, image_size, in_channels],
    ...(normalises ? { normalisation: { mean, std } } : {}),
    parameters: file.parameters,
    dropout: true,
    recompute: true,
    forward(p, x, { dropout, recompute } = {}) {
      let h = conv2d(x, p.get('conv1.weight'), { padding: 1 });
      for (const block of blocks) {
        h = blockOf(p, h, recompute, (q, y) => basicBlock(block, q, y, dropout));
      }
      h = pooled(normalise('bn1', p, h, { relu: true }));
      return linear(h, p.get('fc.weight'), p.get('fc.bias'));
    },
  };
}

/** x + Conv2(dropout(act(Conv1(act(x))))); where the width changes, the shortcut is a 1×1 convolution of the activated x. */
function basicBlock(
  { name, in: from, out, stride }: Block,
  p: Parameters,
  x: Tensor,
  dropout: ClassifierForwardOptions['dropout'],
): Tensor {
  const a = normalise(`${name}.bn1`, p, x, { relu: true });
  let h = conv2d(a, p.get(`${name}.conv1.weight`), { stride, padding: 1 });
  h = normalise(`${name}.bn2`, p, h, { relu: true });
  if (dropout) h = dropout(name, h);
  h = conv2d(h, p.get(`${name}.conv2.weight`), { padding: 1 });
  return add(from === out ? x : conv2d(a, p.get(`${name}.convShortcut.weight`), { stride }), h);
}

export interface DmWideResNetConfig extends WideResNetConfig {
  readonly activation: 'swish' | 'relu';
}

/** DiffPure's and CMAP's larger CIFAR-10 classifier. */
export const dmWrn70x16: DmWideResNetConfig = {
  ...wrn28x10,
  depth: 70,
  widen_factor: 16,
  activation: 'swish',
  ...cifar10Normalisation,
};

/** @throws InputError when the configuration cannot be built */
export function dmWideResNet(given: Partial<DmWideResNetConfig>): Architecture {
  const config = withDefaults('dm_wide_resnet config', given, dmWrn70x16);
  const { in_channels, image_size, num_classes, activation, mean, std } = config;
  if (image_size % 4 !== 0)
    throw new InputError(
      `dm_wide_resnet config: image_size must be a multiple of 4, got ${image_size} (RobustBench pads other images first)`,
    );
  const act = new Map([
    ['swish', silu],
    ['relu', relu],
  ]).get(activation);
  if (!act)
    throw new InputError(
      `dm_wide_resnet config: activation is swish or relu, not ${JSON.stringify(activation)}`,
    );
  checkConstants('dm_wide_resnet config', config);
  const blocks = blocksOf(config, (stage, i) => `layer.${stage}.block.${i}`);
  const last = (blocks.at(-1) as Block).out;
  const file = new StateDict();
  file.conv('init_conv', 3, in_channels, 16, { bias: false });
  for (const { name, in: from, out } of blocks) {
    file.batchNorm(`${name}.batchnorm_0`, from);
    file.conv(`${name}.conv_0`, 3, from, out, { bias: false });
    file.batchNorm(`${name}.batchnorm_1`, out);
    file.conv(`${name}.conv_1`, 3, out, out, { bias: false });
    if (from !== out) file.conv(`${name}.shortcut`, 1, from, out, { bias: false });
  }
  file.batchNorm('batchnorm', last);
  file.linear('logits', last, num_classes);
  return {
    family: 'dm_wide_resnet',
    classes: num_classes,
    imageShape: [image_size, image_size, in_channels],
    normalisation: { mean, std },
    parameters: file.parameters,
    dropout: true,
    recompute: true,
    forward(p, x, { dropout, recompute } = {}) {
      let h = conv2d(x, p.get('init_conv.weight'), { padding: 1 });
      for (const block of blocks) {
        h = blockOf(p, h, recompute, (q, y) => dmBlock(block, act, q, y, dropout));
      }
      h = pooled(act(normalise('batchnorm', p, h)));
      return linear(h, p.get('logits.weight'), p.get('logits.bias'));
    },
  };
}

function dmBlock(
  { name, in: from, out, stride }: Block,
  act: (x: Tensor) => Tensor,
  p: Parameters,
  x: Tensor,
  dropout: ClassifierForwardOptions['dropout'],
): Tensor {
  const a = act(normalise(`${name}.batchnorm_0`, p, x));
  const padding = stride === 1 ? 1 : ([0, 1, 0, 1] as const);
  let y = conv2d(a, p.get(`${name}.conv_0.weight`), { stride, padding });
  y = act(normalise(`${name}.batchnorm_1`, p, y));
  if (dropout) y = dropout(name, y);
  y = conv2d(y, p.get(`${name}.conv_1.weight`), { padding: 1 });
  return add(from === out ? x : conv2d(a, p.get(`${name}.shortcut.weight`), { stride }), y);
}
