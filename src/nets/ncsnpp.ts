/**
 * NCSN++ (Song et al. 2021, "Score-Based Generative Modeling through SDEs"), the family of the published
 * CIFAR-10 consistency model: BigGAN residual blocks with FIR resampling, skips scaled by 1/√2, attention at
 * chosen resolutions, and an input pyramid that is added residually on the way down.
 *
 * Parameter names and layouts are those of the published Flax checkpoints (kernels HWIO, dense [in, out]), joined
 * with dots: `ResnetBlockBigGANpp_3.Conv_0.kernel`.
 */
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import type { Shape, Tensor } from '../engine/tensor.ts';
import { attention } from '../kernels/attention.ts';
import { add, residual } from '../kernels/broadcast.ts';
import { conv2d } from '../kernels/conv2d.ts';
import { silu } from '../kernels/elementwise.ts';
import { fourierEmbeddingHost } from '../kernels/embedding.ts';
import { groupNorm } from '../kernels/group-norm.ts';
import { linear } from '../kernels/matmul.ts';
import { pixelShuffle, pixelUnshuffle } from '../kernels/pixel-shuffle.ts';
import { firDownsample, firUpsample, upfirdn } from '../kernels/resample.ts';
import { concat, reshape } from '../kernels/shape.ts';
import type { ParameterShapes, Parameters } from './parameters.ts';

/** Names as in the published configuration files; `patch_size` is ours. */
export interface NcsnppConfig {
  readonly image_size: number;
  readonly num_channels: number;
  readonly nf: number;
  readonly ch_mult: readonly number[];
  readonly num_res_blocks: number;
  /** Side lengths, after patching, at which blocks attend. */
  readonly attn_resolutions: readonly number[];
  /** p > 1 works on p×p patches as channels (torch's pixel_unshuffle order); 1 is the published network. */
  readonly patch_size?: number;
}

/** The published CIFAR-10 model. */
export const ncsnppCifar10: NcsnppConfig = {
  image_size: 32,
  num_channels: 3,
  nf: 128,
  ch_mult: [2, 2, 2],
  num_res_blocks: 4,
  attn_resolutions: [16],
};

/** One step of the forward pass; `name` is the module's name in the checkpoint. */
type Layer =
  | { kind: 'conv'; name: string; in: number; out: number }
  /** With `skip`, the last pushed activation of that many channels is concatenated first. */
  | { kind: 'block'; name: string; in: number; out: number; skip: number; resample: 'up' | 'down' | null }
  | { kind: 'attention'; name: string; channels: number }
  /** Downsamples the input pyramid by two and adds it. */
  | { kind: 'pyramid'; name: string; in: number; out: number }
  | { kind: 'push' }
  | { kind: 'out'; norm: string; conv: string; in: number; out: number };

export interface NcsnppPlan {
  readonly config: NcsnppConfig;
  readonly patch: number;
  readonly layers: readonly Layer[];
  readonly shapes: ParameterShapes;
}

const rsqrt2 = Math.SQRT1_2;
const groupsOf = (channels: number) => Math.min(Math.floor(channels / 4), 32);

/** @throws InputError when the configuration cannot be built */
export function ncsnppPlan(config: NcsnppConfig): NcsnppPlan {
  const { nf, ch_mult, num_res_blocks, image_size } = config;
  const patch = config.patch_size ?? 1;
  const fail = (what: string) => {
    throw new InputError(`ncsnpp config: ${what}`);
  };
  for (const [name, value] of Object.entries({
    image_size,
    nf,
    num_res_blocks,
    num_channels: config.num_channels,
    patch,
  })) {
    if (!Number.isInteger(value) || value < 1) fail(`${name} must be a positive integer, got ${value}`);
  }
  if (!Array.isArray(ch_mult) || ch_mult.length === 0) fail('ch_mult must be a list of at least one number');
  if (image_size % patch !== 0) fail(`patch_size ${patch} does not divide image_size ${image_size}`);
  let side = image_size / patch;
  if (side % 2 ** (ch_mult.length - 1) !== 0) {
    fail(`a side of ${side} cannot be halved ${ch_mult.length - 1} times, as ch_mult [${ch_mult}] asks`);
  }
  const channels = config.num_channels * patch * patch;
  const layers: Layer[] = [];
  const skips: number[] = [];
  let blocks = 0;
  let attentions = 0;
  const block = (from: number, to: number, resample: 'up' | 'down' | null, skip = 0) => {
    for (const c of [from + skip, to]) {
      if (c < 4 || c % groupsOf(c) !== 0) fail(`${c} channels do not divide into ${groupsOf(c)} groups`);
    }
    layers.push({
      kind: 'block',
      name: `ResnetBlockBigGANpp_${blocks++}`,
      in: from + skip,
      out: to,
      skip,
      resample,
    });
    return to;
  };
  const attend = (c: number) =>
    layers.push({ kind: 'attention', name: `AttnBlockpp_${attentions++}`, channels: c });
  const push = (c: number) => {
    layers.push({ kind: 'push' });
    skips.push(c);
  };

  layers.push({ kind: 'conv', name: 'Conv_0', in: channels, out: nf });
  let width = nf;
  push(width);
  let pyramid = channels;
  ch_mult.forEach((multiple, level) => {
    for (let i = 0; i < num_res_blocks; i++) {
      width = block(width, nf * multiple, null);
      if (config.attn_resolutions.includes(side)) attend(width);
      push(width);
    }
    if (level === ch_mult.length - 1) return;
    width = block(width, width, 'down');
    layers.push({ kind: 'pyramid', name: `Downsample_${level}`, in: pyramid, out: width });
    pyramid = width;
    side /= 2;
    push(width);
  });
  width = block(width, width, null);
  attend(width);
  width = block(width, width, null);
  for (let level = ch_mult.length - 1; level >= 0; level--) {
    for (let i = 0; i <= num_res_blocks; i++)
      width = block(width, nf * (ch_mult[level] as number), null, skips.pop());
    if (config.attn_resolutions.includes(side)) attend(width);
    if (level > 0) {
      width = block(width, width, 'up');
      side *= 2;
    }
  }
  layers.push({ kind: 'out', norm: 'GroupNorm_0', conv: 'Conv_1', in: width, out: channels });
  return { config, patch, layers, shapes: shapesOf(layers, nf) };
}

function shapesOf(layers: readonly Layer[], nf: number): ParameterShapes {
  const shapes = new Map<string, Shape>();
  const conv = (name: string, size: number, from: number, to: number) => {
    shapes.set(`${name}.kernel`, [size, size, from, to]);
    shapes.set(`${name}.bias`, [to]);
  };
  const dense = (name: string, from: number, to: number) => {
    shapes.set(`${name}.kernel`, [from, to]);
    shapes.set(`${name}.bias`, [to]);
  };
  const norm = (name: string, c: number) => {
    shapes.set(`${name}.scale`, [c]);
    shapes.set(`${name}.bias`, [c]);
  };
  shapes.set('GaussianFourierProjection_0.W', [nf]);
  dense('Dense_0', 2 * nf, 4 * nf);
  dense('Dense_1', 4 * nf, 4 * nf);
  for (const layer of layers) {
    switch (layer.kind) {
      case 'conv':
        conv(layer.name, 3, layer.in, layer.out);
        break;
      case 'block': {
        const { name } = layer;
        norm(`${name}.GroupNorm_0`, layer.in);
        conv(`${name}.Conv_0`, 3, layer.in, layer.out);
        dense(`${name}.Dense_0`, 4 * nf, layer.out);
        norm(`${name}.GroupNorm_1`, layer.out);
        conv(`${name}.Conv_1`, 3, layer.out, layer.out);
        if (layer.in !== layer.out || layer.resample) conv(`${name}.Conv_2`, 1, layer.in, layer.out);
        break;
      }
      case 'attention':
        norm(`${layer.name}.GroupNorm_0`, layer.channels);
        for (let i = 0; i < 4; i++) {
          shapes.set(`${layer.name}.NIN_${i}.W`, [layer.channels, layer.channels]);
          shapes.set(`${layer.name}.NIN_${i}.b`, [layer.channels]);
        }
        break;
      case 'pyramid':
        shapes.set(`${layer.name}.Conv2d_0.weight`, [3, 3, layer.in, layer.out]);
        shapes.set(`${layer.name}.Conv2d_0.bias`, [layer.out]);
        break;
      case 'out':
        norm(layer.norm, layer.in);
        conv(layer.conv, 3, layer.in, layer.out);
        break;
    }
  }
  return shapes;
}

/**
 * Per block, the row its time embedding adds after Conv_0, from the conditioning value (0.25 ln σ). It depends on
 * σ alone, so a loop at one σ computes it once.
 * @returns [1, C] by block name
 */
export function ncsnppEmbedding(
  device: Device,
  plan: NcsnppPlan,
  p: Parameters,
  w: ArrayLike<number>,
  cond: number,
): Map<string, Tensor> {
  const nf = plan.config.nf;
  return new Map(
    device.scope(() => {
      let t = device.tensor(fourierEmbeddingHost([cond], w), [1, 2 * nf]);
      t = linear(t, p.get('Dense_0.kernel'), p.get('Dense_0.bias'));
      t = linear(silu(t), p.get('Dense_1.kernel'), p.get('Dense_1.bias'));
      t = silu(t);
      return plan.layers.flatMap((layer) =>
        layer.kind === 'block'
          ? [
              [
                layer.name,
                linear(t, p.get(`${layer.name}.Dense_0.kernel`), p.get(`${layer.name}.Dense_0.bias`)),
              ] as [string, Tensor],
            ]
          : [],
      );
    }),
  );
}

/**
 * F(x, cond).
 * @param x [N, H, W, C]
 * @param embedding from `ncsnppEmbedding`
 * @returns [N, H, W, C]
 */
export function ncsnppForward(
  plan: NcsnppPlan,
  p: Parameters,
  x: Tensor,
  embedding: ReadonlyMap<string, Tensor>,
): Tensor {
  const { image_size, num_channels } = plan.config;
  check(
    x.rank === 4 && x.shape[1] === image_size && x.shape[2] === image_size && x.shape[3] === num_channels,
    () => `ncsnpp: x is [${x.shape}], wants [N,${image_size},${image_size},${num_channels}]`,
  );
  let pyramid = plan.patch > 1 ? pixelUnshuffle(x, plan.patch) : x;
  let h = pyramid;
  const skips: Tensor[] = [];
  for (const layer of plan.layers) {
    switch (layer.kind) {
      case 'conv':
        h = conv2d(h, p.get(`${layer.name}.kernel`), { bias: p.get(`${layer.name}.bias`), padding: 1 });
        break;
      case 'block':
        if (layer.skip > 0) h = concat([h, skips.pop() as Tensor], 3);
        h = residualBlock(layer, p, h, embedding.get(layer.name) as Tensor);
        break;
      case 'attention':
        h = attentionBlock(layer.name, p, h);
        break;
      case 'pyramid':
        // FIR filter and stride-2 convolution: the published conv_downsample_2d.
        pyramid = upfirdn(pyramid, { up: 1, down: 1, pad: [2, 2], gain: 1 });
        pyramid = conv2d(pyramid, p.get(`${layer.name}.Conv2d_0.weight`), {
          bias: p.get(`${layer.name}.Conv2d_0.bias`),
          stride: 2,
          padding: 0,
        });
        pyramid = residual(pyramid, h, rsqrt2);
        h = pyramid;
        break;
      case 'push':
        skips.push(h);
        break;
      case 'out':
        h = norm(layer.norm, p, h, true);
        h = conv2d(h, p.get(`${layer.conv}.kernel`), { bias: p.get(`${layer.conv}.bias`), padding: 1 });
        break;
    }
  }
  return plan.patch > 1 ? pixelShuffle(h, plan.patch) : h;
}

function norm(name: string, p: Parameters, x: Tensor, activate: boolean): Tensor {
  const groups = groupsOf(x.shape[3] as number);
  return groupNorm(x, p.get(`${name}.scale`), p.get(`${name}.bias`), { groups, eps: 1e-6, silu: activate });
}

/** (x' + Conv_1(act(GN(Conv_0(act(GN(x)')) + temb))))/√2, where ' resamples and a 1×1 Conv_2 fits the shortcut. */
function residualBlock(layer: Layer & { kind: 'block' }, p: Parameters, x: Tensor, temb: Tensor): Tensor {
  const { name, resample } = layer;
  let h = norm(`${name}.GroupNorm_0`, p, x, true);
  if (resample) {
    const fir = resample === 'up' ? firUpsample : firDownsample;
    h = fir(h);
    x = fir(x);
  }
  // One σ for the whole batch: its row joins the bias and costs nothing.
  const bias = add(p.get(`${name}.Conv_0.bias`), reshape(temb, [layer.out]));
  h = conv2d(h, p.get(`${name}.Conv_0.kernel`), { bias, padding: 1 });
  h = norm(`${name}.GroupNorm_1`, p, h, true);
  h = conv2d(h, p.get(`${name}.Conv_1.kernel`), { bias: p.get(`${name}.Conv_1.bias`), padding: 1 });
  if (layer.in !== layer.out || resample) {
    x = conv2d(x, p.get(`${name}.Conv_2.kernel`), { bias: p.get(`${name}.Conv_2.bias`) });
  }
  return residual(x, h, rsqrt2);
}

function attentionBlock(name: string, p: Parameters, x: Tensor): Tensor {
  const [n, height, width, c] = x.shape as [number, number, number, number];
  const h = reshape(norm(`${name}.GroupNorm_0`, p, x, false), [n, height * width, c]);
  const nin = (i: number, y: Tensor) => linear(y, p.get(`${name}.NIN_${i}.W`), p.get(`${name}.NIN_${i}.b`));
  const y = attention(nin(0, h), nin(1, h), nin(2, h), { heads: 1, scale: c ** -0.5 });
  return residual(x, reshape(nin(3, y), x.shape), rsqrt2);
}
