/**
 * WideResNet (Zagoruyko & Komodakis 2016) as RobustBench's "Standard" family has it: pre-activation blocks, ReLU,
 * input in [0, 1] without normalisation. Parameter names are those of its PyTorch state_dict; convolutions are
 * OIHW in files and HWIO on the device.
 */
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import type { Shape, Tensor } from '../engine/tensor.ts';
import { batchNorm } from '../kernels/batch-norm.ts';
import { add } from '../kernels/broadcast.ts';
import { conv2d } from '../kernels/conv2d.ts';
import { linear } from '../kernels/matmul.ts';
import { globalAveragePool } from '../kernels/pool.ts';
import { bindParameters, type ParameterShapes, type Parameters, type TensorSource } from './parameters.ts';

export interface WideResNetConfig {
  /** 6n + 4. */
  readonly depth: number;
  readonly widen_factor: number;
  readonly num_classes: number;
  readonly in_channels: number;
  readonly image_size: number;
}

interface Block {
  readonly name: string;
  readonly in: number;
  readonly out: number;
  readonly stride: number;
}

/** A classifier of images in [0, 1]. */
export class WideResNet {
  constructor(
    readonly device: Device,
    readonly config: WideResNetConfig,
    readonly parameters: Parameters,
  ) {}

  static load(device: Device, config: WideResNetConfig, source: TensorSource): WideResNet {
    const used: TensorSource = {
      label: source.label,
      names: source.names.filter((name) => !name.endsWith('num_batches_tracked')),
      shape: (name) => source.shape(name),
      floats: (name) => source.floats(name),
    };
    const axes = (name: string) => {
      const rank = source.shape(name).length;
      return rank === 4 ? [2, 3, 1, 0] : rank === 2 ? [1, 0] : null;
    };
    return new WideResNet(device, config, bindParameters(device, wideResNetShapes(config), used, axes));
  }

  get classes(): number {
    return this.config.num_classes;
  }

  get imageShape(): readonly [number, number, number] {
    return [this.config.image_size, this.config.image_size, this.config.in_channels];
  }

  /**
   * @param x [N, H, W, C] in [0, 1]
   * @returns [N, classes]
   */
  logits(x: Tensor): Tensor {
    const [height, width, channels] = this.imageShape;
    check(
      x.rank === 4 && x.shape[1] === height && x.shape[2] === width && x.shape[3] === channels,
      () => `wide_resnet: x is [${x.shape}], wants [N,${height},${width},${channels}]`,
    );
    const p = this.parameters;
    let h = conv2d(x, p.get('conv1.weight'), { padding: 1 });
    for (const block of blocksOf(this.config)) h = basicBlock(block, p, h);
    h = globalAveragePool(normRelu('bn1', p, h));
    return linear(h, p.get('fc.weight'), p.get('fc.bias'));
  }

  dispose(): void {
    this.parameters.dispose();
  }
}

function blocksOf(config: WideResNetConfig): Block[] {
  const { depth, widen_factor } = config;
  if ((depth - 4) % 6 !== 0 || depth < 10)
    throw new InputError(`wide_resnet config: depth must be 6n + 4, got ${depth}`);
  const blocks: Block[] = [];
  let width = 16;
  for (let stage = 1; stage <= 3; stage++) {
    const out = 16 * widen_factor * 2 ** (stage - 1);
    for (let i = 0; i < (depth - 4) / 6; i++) {
      blocks.push({ name: `block${stage}.layer.${i}`, in: width, out, stride: i === 0 && stage > 1 ? 2 : 1 });
      width = out;
    }
  }
  return blocks;
}

export function wideResNetShapes(config: WideResNetConfig): ParameterShapes {
  const shapes = new Map<string, Shape>();
  const norm = (name: string, c: number) => {
    for (const field of ['weight', 'bias', 'running_mean', 'running_var'])
      shapes.set(`${name}.${field}`, [c]);
  };
  shapes.set('conv1.weight', [3, 3, config.in_channels, 16]);
  const blocks = blocksOf(config);
  for (const { name, in: from, out } of blocks) {
    norm(`${name}.bn1`, from);
    shapes.set(`${name}.conv1.weight`, [3, 3, from, out]);
    norm(`${name}.bn2`, out);
    shapes.set(`${name}.conv2.weight`, [3, 3, out, out]);
    if (from !== out) shapes.set(`${name}.convShortcut.weight`, [1, 1, from, out]);
  }
  const last = (blocks.at(-1) as Block).out;
  norm('bn1', last);
  shapes.set('fc.weight', [last, config.num_classes]);
  shapes.set('fc.bias', [config.num_classes]);
  return shapes;
}

function normRelu(name: string, p: Parameters, x: Tensor): Tensor {
  return batchNorm(
    x,
    {
      scale: p.get(`${name}.weight`),
      bias: p.get(`${name}.bias`),
      mean: p.get(`${name}.running_mean`),
      variance: p.get(`${name}.running_var`),
    },
    { eps: 1e-5, relu: true },
  );
}

/** x + Conv2(act(Conv1(act(x)))); where the width changes, the shortcut is a 1×1 convolution of the activated x. */
function basicBlock(block: Block, p: Parameters, x: Tensor): Tensor {
  const { name, stride } = block;
  const a = normRelu(`${name}.bn1`, p, x);
  let h = conv2d(a, p.get(`${name}.conv1.weight`), { stride, padding: 1 });
  h = conv2d(normRelu(`${name}.bn2`, p, h), p.get(`${name}.conv2.weight`), { padding: 1 });
  const shortcut = block.in === block.out ? x : conv2d(a, p.get(`${name}.convShortcut.weight`), { stride });
  return add(shortcut, h);
}
