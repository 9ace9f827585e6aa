/**
 * The U-Net of improved-diffusion (Nichol & Dhariwal 2021) and ADM (Dhariwal & Nichol 2021), the family of the
 * published ImageNet 64×64 consistency models: residual blocks modulated by the time embedding, attention with
 * several heads, resampling by nearest neighbours and 2×2 means or by convolutions.
 *
 * Parameter names are those of the published PyTorch state_dicts: `input_blocks.4.0.in_layers.2.weight`.
 */
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import { Tensor } from '../engine/tensor.ts';
import { attention } from '../kernels/attention.ts';
import { add } from '../kernels/broadcast.ts';
import { conv2d } from '../kernels/conv2d.ts';
import { silu } from '../kernels/elementwise.ts';
import { sinusoidalEmbeddingHost } from '../kernels/embedding.ts';
import { groupNorm } from '../kernels/group-norm.ts';
import { linear } from '../kernels/matmul.ts';
import { averagePool } from '../kernels/pool.ts';
import { broadcastTo } from '../kernels/reduce.ts';
import { nearestUpsample } from '../kernels/resample.ts';
import { concat, reshape, slice } from '../kernels/shape.ts';
import { type ParameterShapes, type Parameters, StateDict, torchConv } from './parameters.ts';
import { blockRunner } from './recompute.ts';
import {
  checkChoices,
  checkCounts,
  type Embedding,
  type ForwardOptions,
  type UNet,
  withDefaults,
} from './unet.ts';

/** Names as in the published scripts' flags. */
export interface AdmConfig {
  readonly image_size: number;
  readonly in_channels: number;
  readonly num_channels: number;
  readonly num_res_blocks: number;
  readonly channel_mult: readonly number[] | string;
  /** Sides at which blocks attend, "32,16,8" for 64×64 images. */
  readonly attention_resolutions: readonly number[] | string;
  readonly num_heads: number;
  /** Channels a head, which then decides their number; -1 leaves it to `num_heads`. */
  readonly num_head_channels: number;
  /** Heads on the way up; -1 for `num_heads`. */
  readonly num_heads_upsample: number;
  /** The time embedding scales and shifts the second normalisation; false adds it before. */
  readonly use_scale_shift_norm: boolean;
  /** Resample inside residual blocks; false uses convolutions of their own. */
  readonly resblock_updown: boolean;
  /** Twice the output channels. */
  readonly learn_sigma: boolean;
  readonly class_cond: boolean;
  readonly num_classes: number;
  /**
   * Of a noise predictor: the diffusion that it was trained for, and whether its time label is the step scaled to 1000 steps
   * or the step itself. A consistency model has none of it.
   */
  readonly diffusion_steps: number;
  readonly noise_schedule: 'linear' | 'cosine';
  readonly rescale_timesteps: boolean;
  /**
   * How qkv lies: 'flash' (queries, keys, values; each by heads), 'legacy' (heads; each q, k, v), as the reshapes of CMAP's code have
   * it. openai/consistency_models' own QKVAttentionLegacy is laid out as 'flash' here.
   */
  readonly attention_type: 'flash' | 'legacy';
}

/** The published ImageNet 64×64 consistency models, here unconditional. */
export const admImageNet64: AdmConfig = {
  image_size: 64,
  in_channels: 3,
  num_channels: 192,
  num_res_blocks: 3,
  channel_mult: [1, 2, 3, 4],
  attention_resolutions: [32, 16, 8],
  num_heads: 4,
  num_head_channels: 64,
  num_heads_upsample: -1,
  use_scale_shift_norm: true,
  resblock_updown: true,
  learn_sigma: false,
  class_cond: false,
  num_classes: 1000,
  diffusion_steps: 1000,
  noise_schedule: 'linear',
  rescale_timesteps: true,
  attention_type: 'flash',
};

/** improved-diffusion's unconditional ImageNet 64×64 model. */
export const improvedDiffusionImageNet64: AdmConfig = {
  ...admImageNet64,
  num_channels: 128,
  attention_resolutions: [16, 8],
  num_head_channels: -1,
  resblock_updown: false,
  learn_sigma: true,
  diffusion_steps: 4000,
  noise_schedule: 'cosine',
  attention_type: 'legacy',
};

const beside = {
  ignored: [
    'dropout',
    'use_fp16',
    'use_checkpoint',
    'use_new_attention_order',
    'weight_schedule',
    'sigma_min',
    'sigma_max',
    'sigma_data',
    'distillation',
    // Of training's loss and of sampling.
    'use_kl',
    'rescale_learned_sigmas',
    'sigma_small',
    'timestep_respacing',
  ],
  only: { dims: 2, conv_resample: true, predict_xstart: false },
};

/** For a `channel_mult` of "", as the published scripts have it. */
const multOf: Readonly<Record<number, readonly number[]>> = {
  32: [1, 2, 2, 2],
  64: [1, 2, 3, 4],
  128: [1, 1, 2, 3, 4],
  256: [1, 1, 2, 2, 4, 4],
};

type Resample = 'up' | 'down' | null;

/** One step of the forward pass; `name` is the module's name in the checkpoint. */
type Layer =
  | { kind: 'conv'; name: string; in: number; out: number }
  /** With `skip`, the last pushed activation of that many channels is concatenated first. */
  | { kind: 'block'; name: string; in: number; out: number; skip: number; resample: Resample }
  | { kind: 'attention'; name: string; channels: number; heads: number }
  | { kind: 'downsample' | 'upsample'; name: string; channels: number }
  | { kind: 'push' }
  | { kind: 'out'; in: number; out: number };

const GROUPS = 32;

/** @throws InputError when the configuration cannot be built */
export function adm(given: Partial<AdmConfig>): UNet & { readonly config: AdmConfig } {
  const config = withDefaults('adm config', given, admImageNet64, beside);
  const layers = layersOf(config);
  const outChannels = config.in_channels * (config.learn_sigma ? 2 : 1);
  const { diffusion_steps: steps, noise_schedule: schedule, rescale_timesteps } = config;
  return {
    family: 'adm',
    config,
    diffusion: { steps, schedule, labelsPerStep: rescale_timesteps ? 1000 / steps : 1 },
    imageShape: [config.image_size, config.image_size, config.in_channels],
    outChannels,
    classes: config.class_cond ? config.num_classes : 0,
    parameters: declare(config, layers),
    timeOf: (sigma) => 250 * Math.log(sigma + 1e-44),
    waves: (_, times) => sinusoidalEmbeddingHost(times, config.num_channels),
    embed: (device, p, times, labels) => embed(config, layers, device, p, times, labels),
    forward: (p, x, embedding, options = {}) => forward(config, layers, p, x, embedding, options),
  };
}

function numbers(name: string, value: readonly number[] | string): number[] {
  const list = typeof value === 'string' ? value.split(',').map(Number) : Array.isArray(value) ? value : [];
  if (list.length === 0 || !list.every((n) => Number.isFinite(n) && n > 0))
    throw new InputError(
      `adm config: ${name} must be positive numbers such as "1,2,3,4", got ${JSON.stringify(value)}`,
    );
  return list;
}

function layersOf(config: AdmConfig): Layer[] {
  const { image_size, num_channels, num_res_blocks, num_heads, num_head_channels } = config;
  const fail = (what: string): never => {
    throw new InputError(`adm config: ${what}`);
  };
  const { in_channels, num_classes } = config;
  checkCounts('adm config', {
    image_size,
    in_channels,
    num_channels,
    num_res_blocks,
    num_heads,
    num_classes,
    diffusion_steps: config.diffusion_steps,
  });
  const flag = [true, false];
  checkChoices('adm config', config, {
    use_scale_shift_norm: flag,
    resblock_updown: flag,
    learn_sigma: flag,
    class_cond: flag,
    attention_type: ['flash', 'legacy'],
  });
  for (const name of ['num_head_channels', 'num_heads_upsample'] as const)
    if (config[name] !== -1) checkCounts('adm config', { [name]: config[name] });
  if (!['linear', 'cosine'].includes(config.noise_schedule))
    fail(`noise_schedule must be linear or cosine, got ${JSON.stringify(config.noise_schedule)}`);
  if (typeof config.rescale_timesteps !== 'boolean')
    fail(`rescale_timesteps must be true or false, got ${JSON.stringify(config.rescale_timesteps)}`);
  const mult = numbers('channel_mult', config.channel_mult || (multOf[image_size] ?? ''));
  const resolutions = numbers('attention_resolutions', config.attention_resolutions);
  const upHeads = config.num_heads_upsample === -1 ? num_heads : config.num_heads_upsample;
  if (image_size % 2 ** (mult.length - 1) !== 0)
    fail(
      `image_size ${image_size} cannot be halved ${mult.length - 1} times, as channel_mult [${mult}] asks`,
    );
  const widthOf = (level: number) => Math.trunc((mult[level] as number) * num_channels);
  const layers: Layer[] = [];
  const skips: number[] = [];
  const block = (name: string, from: number, out: number, skip = 0, resample: Resample = null) => {
    for (const c of [from + skip, out])
      if (c % GROUPS !== 0) fail(`${c} channels do not divide into ${GROUPS} groups`);
    layers.push({ kind: 'block', name, in: from + skip, out, skip, resample });
    return out;
  };
  const attend = (name: string, channels: number, wanted: number) => {
    const heads = num_head_channels === -1 ? wanted : channels / num_head_channels;
    if (!Number.isInteger(heads) || channels % heads !== 0)
      fail(
        `${channels} channels do not divide into heads of ${num_head_channels === -1 ? `1/${wanted}` : num_head_channels}`,
      );
    layers.push({ kind: 'attention', name, channels, heads });
  };
  const push = (c: number) => {
    layers.push({ kind: 'push' });
    skips.push(c);
  };

  let n = 0;
  let side = image_size;
  let width = widthOf(0);
  layers.push({ kind: 'conv', name: `input_blocks.${n++}.0`, in: in_channels, out: width });
  push(width);
  for (let level = 0; level < mult.length; level++) {
    for (let i = 0; i < num_res_blocks; i++, n++) {
      width = block(`input_blocks.${n}.0`, width, widthOf(level));
      if (resolutions.includes(side)) attend(`input_blocks.${n}.1`, width, num_heads);
      push(width);
    }
    if (level === mult.length - 1) break;
    if (config.resblock_updown) block(`input_blocks.${n++}.0`, width, width, 0, 'down');
    else layers.push({ kind: 'downsample', name: `input_blocks.${n++}.0.op`, channels: width });
    side /= 2;
    push(width);
  }
  block('middle_block.0', width, width);
  attend('middle_block.1', width, num_heads);
  block('middle_block.2', width, width);
  n = 0;
  for (let level = mult.length - 1; level >= 0; level--) {
    for (let i = 0; i <= num_res_blocks; i++, n++) {
      let m = 0;
      width = block(`output_blocks.${n}.${m++}`, width, widthOf(level), skips.pop());
      if (resolutions.includes(side)) attend(`output_blocks.${n}.${m++}`, width, upHeads);
      if (level === 0 || i < num_res_blocks) continue;
      const name = `output_blocks.${n}.${m}`;
      if (config.resblock_updown) block(name, width, width, 0, 'up');
      else layers.push({ kind: 'upsample', name: `${name}.conv`, channels: width });
      side *= 2;
    }
  }
  layers.push({ kind: 'out', in: width, out: in_channels * (config.learn_sigma ? 2 : 1) });
  return layers;
}

function declare(config: AdmConfig, layers: readonly Layer[]): ParameterShapes {
  const file = new StateDict();
  const embedded = 4 * config.num_channels;
  file.linear('time_embed.0', config.num_channels, embedded);
  file.linear('time_embed.2', embedded, embedded);
  if (config.class_cond) {
    const table = [config.num_classes, embedded];
    file.parameters.set('label_emb.weight', { shape: table, file: table });
  }
  for (const layer of layers) {
    switch (layer.kind) {
      case 'conv':
        file.conv(layer.name, 3, layer.in, layer.out);
        break;
      case 'downsample':
      case 'upsample':
        file.conv(layer.name, 3, layer.channels, layer.channels);
        break;
      case 'block': {
        const { name, in: from, out } = layer;
        file.groupNorm(`${name}.in_layers.0`, from);
        file.conv(`${name}.in_layers.2`, 3, from, out);
        file.linear(`${name}.emb_layers.1`, embedded, config.use_scale_shift_norm ? 2 * out : out);
        file.groupNorm(`${name}.out_layers.0`, out);
        file.conv(`${name}.out_layers.3`, 3, out, out);
        if (from !== out) file.conv(`${name}.skip_connection`, 1, from, out);
        break;
      }
      case 'attention': {
        const { name, channels, heads } = layer;
        file.groupNorm(`${name}.norm`, channels);
        const d = channels / heads;
        const legacy = config.attention_type === 'legacy';
        // On the device always (q, k, v), each by heads.
        file.parameters.set(`${name}.qkv.weight`, {
          shape: [channels, 3 * channels],
          file: [3 * channels, channels],
          view: legacy ? [heads, 3, d, channels] : [3, heads, d, channels],
          axes: legacy ? [3, 1, 0, 2] : [3, 0, 1, 2],
        });
        file.parameters.set(`${name}.qkv.bias`, {
          shape: [3 * channels],
          file: [3 * channels],
          view: legacy ? [heads, 3, d] : [3, heads, d],
          axes: legacy ? [1, 0, 2] : [0, 1, 2],
        });
        file.parameters.set(`${name}.proj_out.weight`, {
          ...torchConv(1, channels, channels),
          shape: [channels, channels],
          view: [channels, channels],
          axes: [1, 0],
        });
        file.vector(`${name}.proj_out.bias`, channels);
        break;
      }
      case 'out':
        file.groupNorm('out.0', layer.in);
        file.conv('out.2', 3, layer.in, layer.out);
        break;
    }
  }
  return file.parameters;
}

/** By block name: [N or 1, 2C] to scale and shift by, or [N or 1, C] to add. */
function embed(
  config: AdmConfig,
  layers: readonly Layer[],
  device: Device,
  p: Parameters,
  times: readonly number[] | Tensor,
  labels: readonly number[] | undefined,
): Embedding {
  const { num_channels, class_cond, num_classes } = config;
  check(
    class_cond === (labels !== undefined),
    () =>
      `adm: this network is ${class_cond ? 'class-conditional and needs labels' : 'unconditional and takes no labels'}`,
  );
  for (const label of labels ?? []) {
    check(
      Number.isInteger(label) && label >= 0 && label < num_classes,
      () => `adm: label ${label} is outside 0..${num_classes - 1}`,
    );
  }
  const rows = (): [string, Tensor][] => {
    const dense = (name: string, x: Tensor) => linear(x, p.get(`${name}.weight`), p.get(`${name}.bias`));
    let t =
      times instanceof Tensor
        ? times
        : device.tensor(sinusoidalEmbeddingHost(times, num_channels), [times.length, num_channels]);
    t = dense('time_embed.2', silu(dense('time_embed.0', t)));
    if (labels) {
      const table = p.get('label_emb.weight');
      t = add(
        t,
        concat(
          labels.map((label) => slice(table, 0, label, 1)),
          0,
        ),
      );
    }
    t = silu(t);
    return layers.flatMap((layer): [string, Tensor][] =>
      layer.kind === 'block' ? [[layer.name, dense(`${layer.name}.emb_layers.1`, t)]] : [],
    );
  };
  // Waves are given where a gradient may be taken, which wants what lies between.
  return new Map(times instanceof Tensor ? rows() : device.scope(rows));
}

function forward(
  config: AdmConfig,
  layers: readonly Layer[],
  p: Parameters,
  x: Tensor,
  embedding: Embedding,
  { recompute, dropout }: ForwardOptions,
): Tensor {
  const { image_size, in_channels } = config;
  check(
    x.rank === 4 && String(x.shape.slice(1)) === String([image_size, image_size, in_channels]),
    () => `adm: x is [${x.shape}], wants [N,${image_size},${image_size},${in_channels}]`,
  );
  const run = blockRunner(recompute);
  const conv = (name: string, y: Tensor, stride = 1) =>
    conv2d(y, p.get(`${name}.weight`), { bias: p.get(`${name}.bias`), padding: 1, stride });
  const skips: Tensor[] = [];
  let h = x;
  for (const layer of layers) {
    switch (layer.kind) {
      case 'conv':
        h = conv(layer.name, h);
        break;
      case 'push':
        skips.push(h);
        break;
      case 'block': {
        const skip = layer.skip > 0 ? (skips.pop() as Tensor) : null;
        const temb = embedding.get(layer.name) as Tensor;
        h = run(skip ? [h, skip] : [h], (...parts) =>
          residualBlock(config, layer, p, skip ? concat(parts, 3) : parts[0], temb, dropout),
        );
        break;
      }
      case 'attention':
        h = run([h], (y) => attentionBlock(layer.name, layer.heads, p, y));
        break;
      case 'downsample':
        h = conv(layer.name, h, 2);
        break;
      case 'upsample':
        h = conv(layer.name, nearestUpsample(h, 2));
        break;
      case 'out':
        h = conv('out.2', norm('out.0', p, h, { silu: true }));
        break;
    }
  }
  return h;
}

function norm(
  name: string,
  p: Parameters,
  x: Tensor,
  options: { silu?: boolean; modulation?: Tensor },
): Tensor {
  return groupNorm(x, p.get(`${name}.weight`), p.get(`${name}.bias`), {
    groups: GROUPS,
    eps: 1e-5,
    ...options,
  });
}

/** x' + Conv(act(GN(Conv(act(GN(x))')) ⊙ (1 + scale) + shift)), where ' resamples and a 1×1 convolution fits the shortcut. */
function residualBlock(
  config: AdmConfig,
  layer: Layer & { kind: 'block' },
  p: Parameters,
  x: Tensor,
  temb: Tensor,
  dropout: ForwardOptions['dropout'],
): Tensor {
  const { name, out, resample } = layer;
  const conv = (module: string, y: Tensor, bias = p.get(`${name}.${module}.bias`)) =>
    conv2d(y, p.get(`${name}.${module}.weight`), { bias, padding: 1 });
  const batch = x.shape[0] as number;
  const shared = temb.shape[0] === 1;
  let h = norm(`${name}.in_layers.0`, p, x, { silu: true });
  if (resample) {
    const change = (y: Tensor) => (resample === 'up' ? nearestUpsample(y, 2) : averagePool(y, 2));
    h = change(h);
    x = change(x);
  }
  if (config.use_scale_shift_norm) {
    const modulation = shared ? broadcastTo(temb, [batch, 2 * out]) : temb;
    h = norm(`${name}.out_layers.0`, p, conv('in_layers.2', h), { silu: true, modulation });
  } else {
    // One time for the whole batch: its row joins the bias and costs nothing.
    const bias = p.get(`${name}.in_layers.2.bias`);
    h = shared
      ? conv('in_layers.2', h, add(bias, reshape(temb, [out])))
      : add(conv('in_layers.2', h), reshape(temb, [batch, 1, 1, out]));
    h = norm(`${name}.out_layers.0`, p, h, { silu: true });
  }
  if (dropout) h = dropout(name, h);
  h = conv('out_layers.3', h);
  if (layer.in !== out) {
    x = conv2d(x, p.get(`${name}.skip_connection.weight`), { bias: p.get(`${name}.skip_connection.bias`) });
  }
  return add(x, h);
}

function attentionBlock(name: string, heads: number, p: Parameters, x: Tensor): Tensor {
  const [n, height, width, c] = x.shape as [number, number, number, number];
  const h = reshape(norm(`${name}.norm`, p, x, {}), [n, height * width, c]);
  const qkv = linear(h, p.get(`${name}.qkv.weight`), p.get(`${name}.qkv.bias`));
  const part = (i: number) => slice(qkv, 2, i * c, c);
  const y = attention(part(0), part(1), part(2), { heads, scale: (c / heads) ** -0.5 });
  const projected = linear(y, p.get(`${name}.proj_out.weight`), p.get(`${name}.proj_out.bias`));
  return add(x, reshape(projected, x.shape));
}
