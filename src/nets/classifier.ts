/** Classifiers: what a family declares, and the network made of it and a checkpoint. */
import { tidy } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { batchNorm, batchNormTraining } from '../kernels/batch-norm.ts';
import { div, sub } from '../kernels/broadcast.ts';
import {
  type BindOptions,
  bindParameters,
  type ParameterShapes,
  type Parameters,
  type TensorSource,
} from './parameters.ts';
import { blockRunner, type Recompute } from './recompute.ts';

export interface Architecture {
  readonly family: string;
  readonly classes: number;
  /** Of one image. */
  readonly imageShape: readonly [height: number, width: number, channels: number];
  /** True where images of other sizes may be classified too. */
  readonly anySize?: boolean;
  /** Subtracted from the image and divided by, per channel, where the published model does so inside. */
  readonly normalisation?: { readonly mean: readonly number[]; readonly std: readonly number[] };
  readonly parameters: ParameterShapes;
  /** Whether it has a place for dropout. */
  readonly dropout?: boolean;
  /** Whether it has blocks to compute again. */
  readonly recompute?: boolean;
  /** @param x [N, H, W, C], normalised @returns logits [N, classes] */
  forward(p: Parameters, x: Tensor, options?: ClassifierForwardOptions): Tensor;
  /** What the last, linear layer is given, where it is asked for. @returns [N, features] */
  features?(p: Parameters, x: Tensor): Tensor;
}

export interface ClassifierForwardOptions {
  /** Keep only what lies between residual blocks for the gradient and compute the rest again, as in U-Nets. */
  readonly recompute?: Recompute;
  /** Training's dropout, before the second convolution of the block `name`. */
  readonly dropout?: (name: string, h: Tensor) => Tensor;
}

/** CIFAR-10's usual constants. */
export const cifar10Normalisation = { mean: [0.4914, 0.4822, 0.4465], std: [0.2471, 0.2435, 0.2616] };
export const imageNetNormalisation = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

/** The constants that a checkpoint holds as buffers of a layer before the network: RobustBench's names. */
export function normalisationIn(source: TensorSource): Architecture['normalisation'] {
  const find = (pattern: RegExp) => source.names.find((name) => pattern.test(name));
  const mean = find(/(^|\.)(mu|normalize\.mean)$/);
  const std = find(/(^|\.)(sigma|normalize\.std)$/);
  if (mean === undefined || std === undefined) return undefined;
  return { mean: [...source.floats(mean)], std: [...source.floats(std)] };
}

/** @throws InputError where the checkpoint says other constants than the network computes with */
export function checkNormalisation(
  { family, imageShape, normalisation }: Architecture,
  source: TensorSource,
): void {
  const found = normalisationIn(source);
  if (!found) return;
  const channels = imageShape[2];
  const own = normalisation ?? { mean: new Array(channels).fill(0), std: new Array(channels).fill(1) };
  for (const key of ['mean', 'std'] as const) {
    const [theirs, ours] = [found[key], own[key]];
    if (theirs.length !== ours.length || theirs.some((v, c) => !(Math.abs(v - (ours[c] as number)) < 1e-3)))
      throw new InputError(
        `${source.label}: it normalises images by ${key} [${theirs.slice(0, 4).map((v) => v.toPrecision(4))}], ${family} here by [${ours}]; give mean and std in the configuration of the network`,
      );
  }
}

/** A classifier of images in [0, 1]. */
export class ClassifierNet {
  readonly #constants: readonly Tensor[];

  constructor(
    readonly device: Device,
    readonly architecture: Architecture,
    readonly parameters: Parameters,
  ) {
    const { mean, std } = architecture.normalisation ?? {};
    this.#constants = mean && std ? [mean, std].map((values) => device.keep(device.tensor(values))) : [];
  }

  /** @throws InputError when the checkpoint does not fit the network */
  static load(
    device: Device,
    architecture: Architecture,
    source: TensorSource,
    options: BindOptions = {},
  ): ClassifierNet {
    checkNormalisation(architecture, source);
    const parameters = bindParameters(device, architecture.parameters, source, options);
    return new ClassifierNet(device, architecture, parameters);
  }

  get classes(): number {
    return this.architecture.classes;
  }

  get imageShape(): readonly [number, number, number] {
    return this.architecture.imageShape;
  }

  /**
   * @param x [N, H, W, C] in [0, 1]
   * @returns [N, classes]
   */
  logits(x: Tensor): Tensor {
    return tidy([x], () => this.logitsOf(this.parameters, x));
  }

  /** The same with other parameters than the network's own, such as those that a gradient is taken for. */
  logitsOf(parameters: Parameters, x: Tensor, options?: ClassifierForwardOptions): Tensor {
    return this.architecture.forward(parameters, this.#prepared(x), options);
  }

  /**
   * Penultimate activations: pooled, before the linear layer.
   * @param x [N, H, W, C] in [0, 1]
   * @returns [N, features]
   * @throws InputError for a family whose features are not told
   */
  features(x: Tensor): Tensor {
    const { architecture } = this;
    if (!architecture.features)
      throw new InputError(`${architecture.family}: its features are not told; take resnet20 to resnet56`);
    const { features } = architecture;
    return tidy([x], () => features(this.parameters, this.#prepared(x)));
  }

  /** Checked and normalised. */
  #prepared(x: Tensor): Tensor {
    const { family, anySize } = this.architecture;
    const [height, width, channels] = this.imageShape;
    const fits = anySize || (x.shape[1] === height && x.shape[2] === width);
    check(
      x.rank === 4 && fits && x.shape[3] === channels,
      () => `${family}: x is [${x.shape}], wants [N,${anySize ? 'H,W' : `${height},${width}`},${channels}]`,
    );
    const [mean, std] = this.#constants;
    return mean && std ? div(sub(x, mean), std) : x;
  }

  dispose(): void {
    for (const tensor of this.#constants) tensor.dispose();
    this.parameters.dispose();
  }
}

/** Batch normalisation of a PyTorch module `name`, with its running statistics or in training with the batch's own, and a ReLU where wanted. */
export function normalise(name: string, p: Parameters, x: Tensor, { relu = false } = {}): Tensor {
  if (p.onStatistics) {
    const [scale, bias] = [p.get(`${name}.weight`), p.get(`${name}.bias`)];
    const { y, mean, variance } = batchNormTraining(x, scale, bias, { eps: 1e-5, relu });
    p.onStatistics(name, mean, variance, x.size / scale.size);
    return y;
  }
  return batchNorm(
    x,
    {
      scale: p.get(`${name}.weight`),
      bias: p.get(`${name}.bias`),
      mean: p.get(`${name}.running_mean`),
      variance: p.get(`${name}.running_var`),
    },
    { eps: 1e-5, relu },
  );
}

/**
 * A block of a network, computed again for the gradient where wanted.
 * @param block from the parameters and x to the block's output; statistics of a batch are handed over once
 */
export function blockOf(
  p: Parameters,
  x: Tensor,
  save: Recompute | undefined,
  block: (p: Parameters, x: Tensor) => Tensor,
): Tensor {
  const run = blockRunner(save);
  const { onStatistics } = p;
  if (!save || !onStatistics) return run([x], (from) => block(p, from));
  const beside: Tensor[] = [];
  let again = false;
  const once = p.with(new Map(), (name, mean, variance, rows) => {
    if (again) return;
    beside.push(mean, variance);
    onStatistics(name, mean, variance, rows);
  });
  const y = run([x], (from) => block(once, from), beside);
  again = true;
  return y;
}
