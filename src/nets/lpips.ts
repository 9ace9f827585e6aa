/**
 * LPIPS, the learned perceptual distance of Zhang et al. 2018: features of a VGG-16 or AlexNet, each pixel's scaled to unit
 * length, squared differences weighted by channel, mean over the image, sum over five layers. Version 0.1 of the published
 * weights. Parameter names are those of torchvision's networks and of the lpips package's `lin` layers.
 */
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, div, mul, sub } from '../kernels/broadcast.ts';
import { conv2d } from '../kernels/conv2d.ts';
import { affine, relu, sqrt, square } from '../kernels/elementwise.ts';
import { linear } from '../kernels/matmul.ts';
import { maxPool } from '../kernels/pool.ts';
import { sum } from '../kernels/reduce.ts';
import { concat, transpose } from '../kernels/shape.ts';
import {
  bindParameters,
  type ParameterShapes,
  type Parameters,
  StateDict,
  type TensorSource,
} from './parameters.ts';

interface Convolution {
  /** Number of the module in torchvision's `features`. */
  readonly module: number;
  readonly from: number;
  readonly to: number;
  readonly size: number;
  readonly stride?: number;
  readonly padding: number;
}

interface Backbone {
  /** Each stage ends where its features are compared. */
  readonly stages: readonly (readonly Convolution[])[];
  /** Window of the pooling before a stage, stride 2; the first has none; 0 is none. */
  readonly pools: readonly number[];
}

const vgg = (module: number, from: number, to: number): Convolution => ({
  module,
  from,
  to,
  size: 3,
  padding: 1,
});
const backbones: Readonly<Record<'vgg16' | 'alexnet', Backbone>> = {
  vgg16: {
    stages: [
      [vgg(0, 3, 64), vgg(2, 64, 64)],
      [vgg(5, 64, 128), vgg(7, 128, 128)],
      [vgg(10, 128, 256), vgg(12, 256, 256), vgg(14, 256, 256)],
      [vgg(17, 256, 512), vgg(19, 512, 512), vgg(21, 512, 512)],
      [vgg(24, 512, 512), vgg(26, 512, 512), vgg(28, 512, 512)],
    ],
    pools: [0, 2, 2, 2, 2],
  },
  alexnet: {
    stages: [
      [{ module: 0, from: 3, to: 64, size: 11, stride: 4, padding: 2 }],
      [{ module: 3, from: 64, to: 192, size: 5, padding: 2 }],
      [{ module: 6, from: 192, to: 384, size: 3, padding: 1 }],
      [{ module: 8, from: 384, to: 256, size: 3, padding: 1 }],
      [{ module: 10, from: 256, to: 256, size: 3, padding: 1 }],
    ],
    pools: [0, 3, 3, 0, 0],
  },
};

/** The side that leaves one pixel to the last layer: 16 for VGG-16, 31 for AlexNet. */
function leastSide({ stages, pools }: Backbone): number {
  let side = 1;
  for (let i = stages.length - 1; i >= 0; i--) {
    for (const { size, stride = 1, padding } of [...(stages[i] ?? [])].reverse())
      side = Math.max(1, (side - 1) * stride + size - 2 * padding);
    const window = pools[i] as number;
    if (window > 0) side = (side - 1) * 2 + window;
  }
  return side;
}

/** ImageNet's mean and deviation for images in [−1, 1], as the lpips package states them. */
const shift = [-0.03, -0.088, -0.188];
const scale = [0.458, 0.448, 0.45];

function declare({ stages }: Backbone): ParameterShapes {
  const file = new StateDict();
  stages.forEach((stage, i) => {
    for (const { module, from, to, size } of stage) file.conv(`features.${module}`, size, from, to);
    const channels = stage.at(-1)?.to as number;
    file.parameters.set(`lin${i}.model.1.weight`, { shape: [channels], file: [1, channels, 1, 1] });
  });
  return file.parameters;
}

export interface LpipsOptions {
  /** Side to which images are brought first, bilinearly, as published recipes do with 224; 0 leaves them. */
  readonly size?: number;
}

export class Lpips {
  readonly #constants: readonly [Tensor, Tensor];
  readonly #resizes = new Map<number, Tensor>();

  private constructor(
    readonly device: Device,
    readonly backbone: 'vgg16' | 'alexnet',
    readonly parameters: Parameters,
    readonly size: number,
  ) {
    const constant = (values: readonly number[]) => device.keep(device.tensor(values));
    this.#constants = [constant(shift), constant(scale)];
  }

  /**
   * @param sources files with the backbone's `features.…` and the `lin…` weights, in one or in two
   * @throws InputError when they hold neither a VGG-16 nor an AlexNet, or do not fit it
   */
  static load(device: Device, sources: readonly TensorSource[], { size = 0 }: LpipsOptions = {}): Lpips {
    if (!(Number.isInteger(size) && size >= 0))
      throw new InputError(`lpips: size must be an integer of at least 0, got ${size}`);
    const owner = new Map(sources.flatMap((source) => source.names.map((name) => [name, source] as const)));
    const of = (name: string) => owner.get(name) as TensorSource;
    const joined: TensorSource = {
      label: sources.map(({ label }) => label).join(', '),
      names: [...owner.keys()],
      shape: (name) => of(name).shape(name),
      floats: (name) => of(name).floats(name),
    };
    const first = joined.names.find((name) => name.endsWith('features.0.weight'));
    if (first === undefined)
      throw new InputError(
        `${joined.label}: has no features.0.weight, so no VGG-16 or AlexNet of torchvision`,
      );
    const backbone = joined.shape(first).at(-1) === 11 ? 'alexnet' : 'vgg16';
    const parameters = bindParameters(device, declare(backbones[backbone]), joined);
    return new Lpips(device, backbone, parameters, size);
  }

  /** @throws InputError where images of these sides are too small for the backbone */
  checkSides(height: number, width: number): void {
    const { size, backbone } = this;
    const least = leastSide(backbones[backbone]);
    const [h, w] = size === 0 ? [height, width] : [size, size];
    if (h < least || w < least)
      throw new InputError(
        `lpips: ${backbone} wants images of at least ${least} x ${least}, lpips_size=${size} gives it ${h} x ${w}; set lpips_size=${least} or more (published: 224)`,
      );
  }

  /**
   * @param a, b [N, H, W, C] in [−1, 1], C 3, or 1 for grey
   * @returns [N]; differentiable in both
   * @throws ShapeError; InputError as `checkSides`
   */
  distance(a: Tensor, b: Tensor): Tensor {
    check(
      a.rank === 4 && String(a.shape) === String(b.shape) && (a.shape[3] === 3 || a.shape[3] === 1),
      () => `lpips: images are [${a.shape}] and [${b.shape}], wants two [N,H,W,C] with C 3 or 1`,
    );
    this.checkSides(a.shape[1] as number, a.shape[2] as number);
    const [left, right] = [this.#features(a), this.#features(b)] as const;
    const each = left.map((f, i) => {
      const [, height, width] = f.shape as [number, number, number, number];
      const weights = this.parameters.get(`lin${i}.model.1.weight`);
      const weighted = mul(square(sub(f, right[i] as Tensor)), weights);
      return affine(sum(weighted, [1, 2, 3]), 1 / (height * width));
    });
    return each.reduce((total, d) => add(total, d));
  }

  /** The five layers' features, of unit length in each pixel. */
  #features(x: Tensor): Tensor[] {
    const { stages, pools } = backbones[this.backbone];
    const coloured = x.shape[3] === 1 ? concat([x, x, x], 3) : x;
    const [mean, deviation] = this.#constants;
    let h = div(sub(this.#resized(coloured), mean), deviation);
    return stages.map((stage, i) => {
      const window = pools[i] as number;
      if (window > 0) h = maxPool(h, window, 2);
      for (const { module, stride, padding } of stage) {
        const bias = this.parameters.get(`features.${module}.bias`);
        h = relu(conv2d(h, this.parameters.get(`features.${module}.weight`), { bias, stride, padding }));
      }
      // The root has no slope at 0, where no unit is active: 1e-8 stands under it, as in the package's later versions.
      return div(h, sqrt(affine(sum(square(h), [3], { keepDims: true }), 1, 1e-8)));
    });
  }

  /** torch's interpolate(mode='bilinear', align_corners=False), as a product with a matrix an axis. */
  #resized(x: Tensor): Tensor {
    const { size } = this;
    const [, height, width] = x.shape as [number, number, number, number];
    if (size === 0 || (height === size && width === size)) return x;
    // [N,H,W,C] -> [N,C,H,W'] -> [N,C,W',H'] -> [N,H',W',C]
    const wide = linear(transpose(x, [0, 3, 1, 2]), this.#matrix(width));
    return transpose(linear(transpose(wide, [0, 1, 3, 2]), this.#matrix(height)), [0, 3, 2, 1]);
  }

  #matrix(from: number): Tensor {
    const known = this.#resizes.get(from);
    if (known) return known;
    const { device, size } = this;
    const made = device.keep(device.tensor(bilinear(from, size), [from, size]));
    this.#resizes.set(from, made);
    return made;
  }

  dispose(): void {
    for (const tensor of [...this.#constants, ...this.#resizes.values()]) tensor.dispose();
    this.parameters.dispose();
  }
}

/** Weights [from, to] of linear interpolation between pixel centres. */
function bilinear(from: number, to: number): Float32Array {
  const out = new Float32Array(from * to);
  for (let j = 0; j < to; j++) {
    const at = Math.max(0, ((j + 0.5) * from) / to - 0.5);
    const low = Math.min(Math.floor(at), from - 1);
    const high = Math.min(low + 1, from - 1);
    const share = at - low;
    out[low * to + j] = (out[low * to + j] as number) + 1 - share;
    out[high * to + j] = (out[high * to + j] as number) + share;
  }
  return out;
}
