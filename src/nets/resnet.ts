/**
 * ResNets (He et al. 2016) in two published forms: torchvision's for ImageNet, with bottleneck blocks, normalising
 * inside as the paper's wrapper does (`resNet`), and the CIFAR-10 ones with parameter-free shortcuts (`cifarResNet`).
 * Parameter names are those of their PyTorch state_dicts.
 */
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add } from '../kernels/broadcast.ts';
import { conv2d } from '../kernels/conv2d.ts';
import { relu } from '../kernels/elementwise.ts';
import { linear } from '../kernels/matmul.ts';
import { averagePool, globalAveragePool, maxPool } from '../kernels/pool.ts';
import { pad } from '../kernels/shape.ts';
import { type Architecture, blockOf, imageNetNormalisation, normalise } from './classifier.ts';
import { type Parameters, StateDict } from './parameters.ts';
import type { Recompute } from './recompute.ts';
import { checkCounts, withDefaults } from './unet.ts';

export interface ResNetConfig {
  /** Bottleneck blocks in each of the four stages. */
  readonly layers: readonly number[];
  /** Base width of the 3×3 convolutions: 64, or 128 for wide_resnet50_2. */
  readonly width_per_group: number;
  readonly num_classes: number;
  /** Other sizes are classified too. */
  readonly image_size: number;
}

export const resnet50: ResNetConfig = {
  layers: [3, 4, 6, 3],
  width_per_group: 64,
  num_classes: 100,
  image_size: 64,
};

interface Block {
  readonly name: string;
  readonly in: number;
  readonly width: number;
  readonly out: number;
  readonly stride: number;
}

/** @throws InputError when the configuration cannot be built */
export function resNet(given: Partial<ResNetConfig>): Architecture {
  const config = withDefaults('resnet config', given, resnet50);
  const { layers, width_per_group, num_classes, image_size } = config;
  checkCounts('resnet config', { width_per_group, num_classes, image_size });
  if (!Array.isArray(layers) || layers.length !== 4)
    throw new InputError('resnet config: layers must be the block counts of four stages');
  checkCounts('resnet config: layers', { ...layers });
  const blocks: Block[] = [];
  let channels = 64;
  layers.forEach((count, stage) => {
    const planes = 64 * 2 ** stage;
    for (let i = 0; i < count; i++) {
      const stride = i === 0 && stage > 0 ? 2 : 1;
      const width = Math.trunc((planes * width_per_group) / 64);
      blocks.push({ name: `layer${stage + 1}.${i}`, in: channels, width, out: 4 * planes, stride });
      channels = 4 * planes;
    }
  });
  const file = new StateDict();
  const bare = { bias: false };
  file.conv('conv1', 7, 3, 64, bare);
  file.batchNorm('bn1', 64);
  for (const { name, in: from, width, out, stride } of blocks) {
    file.conv(`${name}.conv1`, 1, from, width, bare);
    file.batchNorm(`${name}.bn1`, width);
    file.conv(`${name}.conv2`, 3, width, width, bare);
    file.batchNorm(`${name}.bn2`, width);
    file.conv(`${name}.conv3`, 1, width, out, bare);
    file.batchNorm(`${name}.bn3`, out);
    if (stride !== 1 || from !== out) {
      file.conv(`${name}.downsample.0`, 1, from, out, bare);
      file.batchNorm(`${name}.downsample.1`, out);
    }
  }
  file.linear('fc', channels, num_classes);
  return {
    family: 'resnet',
    classes: num_classes,
    imageShape: [image_size, image_size, 3],
    anySize: true,
    normalisation: imageNetNormalisation,
    parameters: file.parameters,
    recompute: true,
    forward(p, x, { recompute } = {}) {
      let h = conv2d(x, p.get('conv1.weight'), { stride: 2, padding: 3 });
      h = maxPool(normalise('bn1', p, h, { relu: true }), 3, 2, 1);
      for (const block of blocks) {
        h = blockOf(p, h, recompute, (q, y) => bottleneck(block, q, y));
      }
      return linear(globalAveragePool(h), p.get('fc.weight'), p.get('fc.bias'));
    },
  };
}

/** relu(x' + BN(Conv1×1(relu(BN(Conv3×3(relu(BN(Conv1×1(x))))))))), the stride in the 3×3 convolution. */
function bottleneck({ name, in: from, out, stride }: Block, p: Parameters, x: Tensor): Tensor {
  let h = normalise(`${name}.bn1`, p, conv2d(x, p.get(`${name}.conv1.weight`)), { relu: true });
  h = conv2d(h, p.get(`${name}.conv2.weight`), { stride, padding: 1 });
  h = normalise(`${name}.bn2`, p, h, { relu: true });
  h = normalise(`${name}.bn3`, p, conv2d(h, p.get(`${name}.conv3.weight`)));
  const shortcut =
    stride !== 1 || from !== out
      ? normalise(`${name}.downsample.1`, p, conv2d(x, p.get(`${name}.downsample.0.weight`), { stride }))
      : x;
  return relu(add(shortcut, h));
}

export interface CifarResNetConfig {
  /** 6n + 2. */
  readonly depth: number;
  readonly num_classes: number;
}

/** @throws InputError when the configuration cannot be built */
export function cifarResNet(given: Partial<CifarResNetConfig>): Architecture {
  const config = withDefaults('cifar_resnet config', given, { depth: 20, num_classes: 10 });
  const { depth, num_classes } = config;
  checkCounts('cifar_resnet config', { num_classes });
  if (!Number.isInteger(depth) || (depth - 2) % 6 !== 0 || depth < 8)
    throw new InputError(`cifar_resnet config: depth must be 6n + 2, got ${depth}`);
  const blocks: Omit<Block, 'width'>[] = [];
  let width = 16;
  for (let stage = 0; stage < 3; stage++) {
    for (let i = 0; i < (depth - 2) / 6; i++) {
      const out = 16 * 2 ** stage;
      blocks.push({
        name: `layer${stage + 1}.${i}`,
        in: width,
        out,
        stride: i === 0 && stage > 0 ? 2 : 1,
      });
      width = out;
    }
  }
  const file = new StateDict();
  file.conv('conv1', 3, 3, 16, { bias: false });
  file.batchNorm('bn1', 16);
  for (const { name, in: from, out } of blocks) {
    file.conv(`${name}.conv1`, 3, from, out, { bias: false });
    file.batchNorm(`${name}.bn1`, out);
    file.conv(`${name}.conv2`, 3, out, out, { bias: false });
    file.batchNorm(`${name}.bn2`, out);
  }
  file.linear('linear', 64, num_classes);
  const features = (p: Parameters, x: Tensor, recompute: Recompute = false) => {
    let h = conv2d(x, p.get('conv1.weight'), { padding: 1 });
    h = normalise('bn1', p, h, { relu: true });
    for (const block of blocks) {
      h = blockOf(p, h, recompute, (q, y) => basicBlock(block, q, y));
    }
    return globalAveragePool(h);
  };
  return {
    family: 'cifar_resnet',
    classes: num_classes,
    imageShape: [32, 32, 3],
    normalisation: imageNetNormalisation,
    parameters: file.parameters,
    recompute: true,
    features: (p, x) => features(p, x),
    forward: (p, x, { recompute } = {}) =>
      linear(features(p, x, recompute), p.get('linear.weight'), p.get('linear.bias')),
  };
}

/** relu(x' + BN(Conv3×3(relu(BN(Conv3×3(x)))))). */
function basicBlock({ name, in: from, out, stride }: Omit<Block, 'width'>, p: Parameters, x: Tensor): Tensor {
  let y = conv2d(x, p.get(`${name}.conv1.weight`), { stride, padding: 1 });
  y = normalise(`${name}.bn1`, p, y, { relu: true });
  y = normalise(`${name}.bn2`, p, conv2d(y, p.get(`${name}.conv2.weight`), { padding: 1 }));
  return relu(add(stride === 1 ? x : optionA(x, from, out), y));
}

/** The shortcut without parameters: every second pixel, and zero channels on both sides. */
function optionA(x: Tensor, from: number, out: number): Tensor {
  const even = averagePool(x, 1, 2);
  const side = (out - from) / 2;
  return pad(even, [
    [0, 0],
    [0, 0],
    [0, 0],
    [side, side],
  ]);
}
