/**
 * NCSN++ and DDPM++ (Song et al. 2021, "Score-Based Generative Modeling through SDEs"). NCSN++ is the family of the
 * published CIFAR-10 consistency model: BigGAN residual blocks with FIR resampling, skips scaled by 1/√2, attention
 * at chosen resolutions, and an input pyramid that is added residually on the way down. DDPM++ resamples by nearest
 * neighbours and 2×2 means, has no pyramid, and embeds its time label in sinusoids.
 *
 * Parameter names and layouts are those of the published Flax checkpoints (kernels HWIO, dense [in, out]), joined
 * with dots: `ResnetBlockBigGANpp_3.Conv_0.kernel`. PyTorch's, `all_modules.7.Conv_0.weight`, are known too.
 */
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import { Tensor } from '../engine/tensor.ts';
import { attention } from '../kernels/attention.ts';
import { add, residual } from '../kernels/broadcast.ts';
import { conv2d } from '../kernels/conv2d.ts';
import { silu } from '../kernels/elementwise.ts';
import { fourierEmbeddingHost, sinusoidalEmbeddingHost } from '../kernels/embedding.ts';
import { groupNorm } from '../kernels/group-norm.ts';
import { linear } from '../kernels/matmul.ts';
import { pixelShuffle, pixelUnshuffle } from '../kernels/pixel-shuffle.ts';
import { averagePool } from '../kernels/pool.ts';
import { firConvPad, firDownsample, firUpsample, nearestUpsample } from '../kernels/resample.ts';
import { concat, reshape } from '../kernels/shape.ts';
import {
  type Parameter,
  type ParameterShapes,
  type Parameters,
  torchConv,
  torchLinear,
} from './parameters.ts';
import { blockRunner } from './recompute.ts';
import {
  checkChoices,
  checkCounts,
  type Embedding,
  type ForwardOptions,
  type UNet,
  withDefaults,
} from './unet.ts';

/** Names as in the published configuration files; `patch_size` is ours. */
export interface NcsnppConfig {
  readonly image_size: number;
  readonly num_channels: number;
  readonly nf: number;
  readonly ch_mult: readonly number[];
  readonly num_res_blocks: number;
  /** Side lengths, after patching, at which blocks attend. */
  readonly attn_resolutions: readonly number[];
  /** FIR resampling [1,3,3,1]; false is nearest neighbours and 2×2 means. */
  readonly fir: boolean;
  readonly progressive_input: 'residual' | 'none';
  /** 'fourier' embeds ¼ ln σ with stored frequencies, 'positional' a time label up to 999 in sinusoids. */
  readonly embedding_type: 'fourier' | 'positional';
  /** p > 1 works on p×p patches as channels (torch's pixel_unshuffle order); 1 is the published network. */
  readonly patch_size: number;
  /** Numbers that say how an image was augmented in training (EDM's, 9); 0 is none. Ours, as `patch_size`. */
  readonly augment_dim: number;
}

/** The published CIFAR-10 consistency model. */
export const ncsnppCifar10: NcsnppConfig = {
  image_size: 32,
  num_channels: 3,
  nf: 128,
  ch_mult: [2, 2, 2],
  num_res_blocks: 4,
  attn_resolutions: [16],
  fir: true,
  progressive_input: 'residual',
  embedding_type: 'fourier',
  patch_size: 1,
  augment_dim: 0,
};

/** score_sde's cifar10_ddpmpp_deep_continuous, a variance-preserving noise predictor. */
export const ddpmppCifar10: NcsnppConfig = {
  ...ncsnppCifar10,
  ch_mult: [1, 2, 2, 2],
  num_res_blocks: 8,
  fir: false,
  progressive_input: 'none',
  embedding_type: 'positional',
};

const beside = {
  ignored: [
    'name',
    'dropout',
    'init_scale',
    'fourier_scale',
    'ema_rate',
    'num_scales',
    'sigma_min',
    'sigma_max',
  ].concat(['beta_min', 'beta_max', 't_min', 't_max', 'rho', 'data_std', 'double_heads', 'resamp_with_conv']),
  only: {
    fir_kernel: [1, 3, 3, 1],
    skip_rescale: true,
    resblock_type: 'biggan',
    progressive: 'none',
    progressive_combine: 'sum',
    attention_type: 'ddpm',
    nonlinearity: 'swish',
    normalization: 'GroupNorm',
    conditional: true,
    scale_by_sigma: false,
    conv_size: 3,
  },
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

const rsqrt2 = Math.SQRT1_2;
const groupsOf = (channels: number) => Math.min(Math.floor(channels / 4), 32);

/** @throws InputError when the configuration cannot be built */
export function ncsnpp(given: Partial<NcsnppConfig>): UNet & { readonly config: NcsnppConfig } {
  const config = withDefaults('ncsnpp config', given, ncsnppCifar10, beside);
  const layers = layersOf(config);
  const { image_size, num_channels } = config;
  return {
    family: 'ncsnpp',
    config,
    imageShape: [image_size, image_size, num_channels],
    outChannels: num_channels,
    classes: 0,
    parameters: declare(config, layers),
    timeOf: (sigma) => 0.25 * Math.log(sigma),
    waves: (p, times) => waves(config, p, times),
    embed: (device, p, times, labels, augment) => {
      check(labels === undefined, () => 'ncsnpp: this network is unconditional and takes no labels');
      return embed(config, layers, device, p, times, augment);
    },
    forward: (p, x, embedding, options = {}) => forward(config, layers, p, x, embedding, options),
  };
}

function layersOf(config: NcsnppConfig): Layer[] {
  const { nf, ch_mult, num_res_blocks, image_size, num_channels, patch_size: patch } = config;
  const fail = (what: string) => {
    throw new InputError(`ncsnpp config: ${what}`);
  };
  checkChoices('ncsnpp config', config, {
    fir: [true, false],
    progressive_input: ['residual', 'none'],
    embedding_type: ['fourier', 'positional'],
  });
  checkCounts('ncsnpp config', { image_size, nf, num_res_blocks, num_channels, patch_size: patch });
  if (!Number.isInteger(config.augment_dim) || config.augment_dim < 0)
    fail(`augment_dim must be an integer of at least 0, got ${config.augment_dim}`);
  if (!Array.isArray(ch_mult) || ch_mult.length === 0) fail('ch_mult must be a list of at least one number');
  if (!Array.isArray(config.attn_resolutions)) fail('attn_resolutions must be a list of numbers');
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
    if (config.progressive_input === 'residual') {
      if (!config.fir)
        fail('progressive_input residual without fir is not built; set progressive_input none, or fir');
      layers.push({ kind: 'pyramid', name: `Downsample_${level}`, in: pyramid, out: width });
      pyramid = width;
    }
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
  return layers;
}

/** Flax's names; PyTorch's number the modules in the order they are made, which is that of `layers`. */
function declare(
  { nf, embedding_type, augment_dim }: NcsnppConfig,
  layers: readonly Layer[],
): ParameterShapes {
  const shapes = new Map<string, Parameter>();
  const add = (name: string, torch: string, file: readonly number[], also: Omit<Parameter, 'shape'>) =>
    shapes.set(name, { shape: file, file, also: { name: `all_modules.${torch}`, ...also } });
  const vector = (name: string, torch: string, length: number) =>
    add(name, torch, [length], { file: [length] });
  const conv = (name: string, torch: string, size: number, from: number, to: number, weight = 'kernel') => {
    add(`${name}.${weight}`, `${torch}.weight`, [size, size, from, to], torchConv(size, from, to));
    vector(`${name}.bias`, `${torch}.bias`, to);
  };
  const dense = (name: string, torch: string, from: number, to: number) => {
    add(`${name}.kernel`, `${torch}.weight`, [from, to], torchLinear(from, to));
    vector(`${name}.bias`, `${torch}.bias`, to);
  };
  const norm = (name: string, torch: string, c: number) => {
    vector(`${name}.scale`, `${torch}.weight`, c);
    vector(`${name}.bias`, `${torch}.bias`, c);
  };
  let n = 0;
  const embedded = embedding_type === 'fourier' ? 2 * nf : nf;
  if (embedding_type === 'fourier') {
    const also = { name: `all_modules.${n++}.W`, file: [nf] };
    shapes.set('GaussianFourierProjection_0.W', { shape: [nf], file: [nf], host: true, also });
  }
  if (augment_dim > 0) {
    const weight = torchLinear(augment_dim, embedded);
    shapes.set('map_augment.weight', { ...weight, also: { name: 'map_augment.weight', ...weight } });
  }
  dense('Dense_0', `${n++}`, embedded, 4 * nf);
  dense('Dense_1', `${n++}`, 4 * nf, 4 * nf);
  for (const layer of layers) {
    switch (layer.kind) {
      case 'conv':
        conv(layer.name, `${n++}`, 3, layer.in, layer.out);
        break;
      case 'block': {
        const { name } = layer;
        norm(`${name}.GroupNorm_0`, `${n}.GroupNorm_0`, layer.in);
        conv(`${name}.Conv_0`, `${n}.Conv_0`, 3, layer.in, layer.out);
        dense(`${name}.Dense_0`, `${n}.Dense_0`, 4 * nf, layer.out);
        norm(`${name}.GroupNorm_1`, `${n}.GroupNorm_1`, layer.out);
        conv(`${name}.Conv_1`, `${n}.Conv_1`, 3, layer.out, layer.out);
        if (layer.in !== layer.out || layer.resample)
          conv(`${name}.Conv_2`, `${n}.Conv_2`, 1, layer.in, layer.out);
        n++;
        break;
      }
      case 'attention': {
        const { name, channels } = layer;
        norm(`${name}.GroupNorm_0`, `${n}.GroupNorm_0`, channels);
        for (let i = 0; i < 4; i++) {
          add(`${name}.NIN_${i}.W`, `${n}.NIN_${i}.W`, [channels, channels], { file: [channels, channels] });
          vector(`${name}.NIN_${i}.b`, `${n}.NIN_${i}.b`, channels);
        }
        n++;
        break;
      }
      case 'pyramid':
        conv(`${layer.name}.Conv2d_0`, `${n++}.Conv2d_0`, 3, layer.in, layer.out, 'weight');
        break;
      case 'out':
        norm(layer.norm, `${n++}`, layer.in);
        conv(layer.conv, `${n++}`, 3, layer.in, layer.out);
        break;
    }
  }
  return shapes;
}

function waves({ nf, embedding_type }: NcsnppConfig, p: Parameters, times: readonly number[]): Float32Array {
  return embedding_type === 'fourier'
    ? fourierEmbeddingHost(times, p.host('GaussianFourierProjection_0.W'))
    : sinusoidalEmbeddingHost(times, nf, { order: 'sin-cos', endpoint: true });
}

/** Per block, the row its time embedding adds after Conv_0: [N or 1, C]. */
function embed(
  config: NcsnppConfig,
  layers: readonly Layer[],
  device: Device,
  p: Parameters,
  times: readonly number[] | Tensor,
  augment: Tensor | undefined,
): Embedding {
  const { nf, embedding_type } = config;
  const dense = (name: string, x: Tensor) => linear(x, p.get(`${name}.kernel`), p.get(`${name}.bias`));
  const rows = (): [string, Tensor][] => {
    const width = embedding_type === 'fourier' ? 2 * nf : nf;
    let t = times instanceof Tensor ? times : device.tensor(waves(config, p, times), [times.length, width]);
    // Without a bias: no augmentation adds nothing.
    if (augment) t = add(t, linear(augment, p.get('map_augment.weight')));
    t = silu(dense('Dense_1', silu(dense('Dense_0', t))));
    return layers.flatMap((layer): [string, Tensor][] =>
      layer.kind === 'block' ? [[layer.name, dense(`${layer.name}.Dense_0`, t)]] : [],
    );
  };
  // Waves are given where a gradient may be taken, which wants what lies between.
  return new Map(times instanceof Tensor ? rows() : device.scope(rows));
}

function forward(
  config: NcsnppConfig,
  layers: readonly Layer[],
  p: Parameters,
  x: Tensor,
  embedding: Embedding,
  { recompute, dropout }: ForwardOptions,
): Tensor {
  const { image_size, num_channels, patch_size: patch } = config;
  check(
    x.rank === 4 && String(x.shape.slice(1)) === String([image_size, image_size, num_channels]),
    () => `ncsnpp: x is [${x.shape}], wants [N,${image_size},${image_size},${num_channels}]`,
  );
  const run = blockRunner(recompute);
  let h = patch > 1 ? pixelUnshuffle(x, patch) : x;
  let pyramid = h;
  const skips: Tensor[] = [];
  for (const layer of layers) {
    const from = h;
    switch (layer.kind) {
      case 'conv':
        h = conv2d(h, p.get(`${layer.name}.kernel`), { bias: p.get(`${layer.name}.bias`), padding: 1 });
        break;
      case 'block': {
        const skip = layer.skip > 0 ? (skips.pop() as Tensor) : null;
        const temb = embedding.get(layer.name) as Tensor;
        h = run(skip ? [from, skip] : [from], (...parts) =>
          residualBlock(config, layer, p, skip ? concat(parts, 3) : parts[0], temb, dropout),
        );
        break;
      }
      case 'attention':
        h = run([from], (y) => attentionBlock(layer.name, p, y));
        break;
      case 'pyramid':
        // FIR filter and stride-2 convolution: the published conv_downsample_2d.
        pyramid = conv2d(firConvPad(pyramid), p.get(`${layer.name}.Conv2d_0.weight`), {
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
  return patch > 1 ? pixelShuffle(h, patch) : h;
}

function norm(name: string, p: Parameters, x: Tensor, activate: boolean): Tensor {
  const groups = groupsOf(x.shape[3] as number);
  return groupNorm(x, p.get(`${name}.scale`), p.get(`${name}.bias`), { groups, eps: 1e-6, silu: activate });
}

/** (x' + Conv_1(act(GN(Conv_0(act(GN(x)')) + temb))))/√2, where ' resamples and a 1×1 Conv_2 fits the shortcut. */
function residualBlock(
  config: NcsnppConfig,
  layer: Layer & { kind: 'block' },
  p: Parameters,
  x: Tensor,
  temb: Tensor,
  dropout: ForwardOptions['dropout'],
): Tensor {
  const { name, resample, out } = layer;
  let h = norm(`${name}.GroupNorm_0`, p, x, true);
  if (resample) {
    const [up, down] = config.fir
      ? [firUpsample, firDownsample]
      : [(y: Tensor) => nearestUpsample(y, 2), (y: Tensor) => averagePool(y, 2)];
    const change = resample === 'up' ? up : down;
    h = change(h);
    x = change(x);
  }
  const w = p.get(`${name}.Conv_0.kernel`);
  let bias = p.get(`${name}.Conv_0.bias`);
  // One σ for the whole batch: its row joins the bias and costs nothing.
  if (temb.shape[0] === 1) bias = add(bias, reshape(temb, [out]));
  h = conv2d(h, w, { bias, padding: 1 });
  if (temb.shape[0] !== 1) h = add(h, reshape(temb, [temb.shape[0] as number, 1, 1, out]));
  h = norm(`${name}.GroupNorm_1`, p, h, true);
  if (dropout) h = dropout(name, h);
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
