/**
 * Group normalisation (Wu and He 2018), fused with the two things U-Nets put behind it: scale and shift by an
 * embedding, and SiLU. One dispatch forward, one backward; gradients of parameters cost one more, and are only
 * computed when asked for.
 */
import { differentiable } from '../engine/autograd.ts';
import type { Capabilities } from '../engine/capabilities.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { checkFloats, sizeOf, type Tensor } from '../engine/tensor.ts';
import forwardSource from './group-norm.wgsl';
import backwardSource from './group-norm-backward.wgsl';
import backwardWorkgroupSource from './group-norm-backward-workgroup.wgsl';
import modulationSource from './group-norm-modulation.wgsl';
import parametersSource from './group-norm-parameters.wgsl';
import forwardWorkgroupSource from './group-norm-workgroup.wgsl';
import { repeat } from './product-text.ts';
import { type Lanes, totalSource } from './row-sum.ts';

/** `registers`: one invocation a group, for CPU drivers. `workgroup`: one workgroup a group, for GPUs. */
export type GroupNormVariant = 'registers' | 'workgroup';

export interface GroupNormOptions {
  readonly groups: number;
  /** Added to the variance. */
  readonly eps: number;
  /** SiLU last. */
  readonly silu?: boolean;
  /** [N, 2C]: the normalised image is multiplied by 1 + the first half and shifted by the second. */
  readonly modulation?: Tensor;
  /** Forces a kernel, for tests and measurements. */
  readonly variant?: GroupNormVariant;
}

export interface GroupNormKernel {
  readonly variant: GroupNormVariant;
  /** Channels a load: 4 or 2 where a group's channels divide. */
  readonly lanes: Lanes;
  /** Loads a group and pixel. */
  readonly width: number;
  /** Invocations a workgroup, and pixels they take at a time; 0 for `registers`. */
  readonly threads: number;
  readonly rows: number;
  /** Loads an invocation keeps in registers. */
  readonly keep: number;
}

/** Of x, and as many of dy: half of what a GPU's invocation may use without losing occupancy. */
const MOST_KEPT = 8;

/** Which kernel normalises `batch` images of `pixels` pixels. A pure function. */
export function chooseGroupNormKernel(
  shape: { batch: number; pixels: number; channels: number; groups: number },
  capabilities: Pick<Capabilities, 'cpu'>,
  forced?: GroupNormVariant,
): GroupNormKernel {
  const perGroup = shape.channels / shape.groups;
  const lanes = perGroup % 4 === 0 ? 4 : perGroup % 2 === 0 ? 2 : 1;
  const width = perGroup / lanes;
  // On CPU drivers barriers cost 10 to 100 times what idle lanes do.
  const wanted = forced ?? (capabilities.cpu ? 'registers' : 'workgroup');
  if (wanted === 'registers' || width > 256)
    return { variant: 'registers', lanes, width, threads: 0, rows: 0, keep: 0 };
  const threads = [64, 128].find((t) => t >= shape.pixels * width) ?? 256;
  const rows = 2 ** Math.floor(Math.log2(threads / width));
  const each = 2 ** Math.ceil(Math.log2(Math.max(1, shape.pixels / rows)));
  return { variant: 'workgroup', lanes, width, threads, rows, keep: Math.min(each, MOST_KEPT) };
}

/**
 * y = act(((x − mean) / √(variance + eps) · scale + bias) · (1 + m₁) + m₂), mean and biased variance over the pixels
 * and channels of a group: `torch.nn.functional.group_norm`, then scale-shift and SiLU where asked for.
 * @param x [N, ..., C], channels last; group g is channels g·C/groups to (g+1)·C/groups
 * @param scale [C]
 * @param bias [C]
 * @returns the shape of x
 * @throws ShapeError when channels do not divide into groups or a parameter does not fit
 */
export function groupNorm(x: Tensor, scale: Tensor, bias: Tensor, options: GroupNormOptions): Tensor {
  const { device } = x;
  const { groups, eps, silu = false, modulation, variant } = options;
  checkFloats('groupNorm', { x, scale, bias, modulation });
  check(
    x.rank >= 2 && x.size > 0,
    () => `groupNorm: x [${x.shape}] is not [N,...,C] with at least one element`,
  );
  const batch = x.shape[0] as number;
  const channels = x.shape.at(-1) as number;
  const pixels = sizeOf(x.shape.slice(1, -1));
  check(
    Number.isInteger(groups) && groups >= 1,
    () => `groupNorm: groups ${groups} is not a positive integer`,
  );
  check(channels % groups === 0, () => `groupNorm: ${channels} channels do not divide into ${groups} groups`);
  check(eps > 0, () => `groupNorm: eps ${eps} is not positive`);
  for (const [name, p] of [
    ['scale', scale],
    ['bias', bias],
  ] as const) {
    check(
      p.rank === 1 && p.size === channels,
      () => `groupNorm: ${name} [${p.shape}] is not [${channels}], the channels of x [${x.shape}]`,
    );
  }
  if (modulation) {
    check(
      modulation.rank === 2 && modulation.shape[0] === batch && modulation.shape[1] === 2 * channels,
      () =>
        `groupNorm: modulation [${modulation.shape}] is not [${batch},${2 * channels}] (x is [${x.shape}])`,
    );
  }

  const choice = chooseGroupNormKernel({ batch, pixels, channels, groups }, device.capabilities, variant);
  const { lanes, width, threads, rows, keep } = choice;
  const onWorkgroups = choice.variant === 'workgroup';
  const count = batch * groups;
  const T = lanes === 1 ? 'f32' : `vec${lanes}<f32>`;
  const constants = {
    T,
    LANES: lanes,
    SILU: silu,
    MODULATION: modulation !== undefined,
    ...(onWorkgroups ? { THREADS: threads, KEEP: keep } : {}),
  };
  const grid = onWorkgroups ? linearGrid(count, 1) : linearGrid(count, 16);
  const params = { pixels, groups, width, count, ...(onWorkgroups ? { rows } : {}) };
  const m = modulation ?? scale;
  const kept = (source: string) => repeat(source, [{ name: 'p', count: keep }]);

  const y = device.empty(x.shape);
  const stats = device.empty([batch, groups, 2]);
  const forward = onWorkgroups
    ? kernel('group-norm-workgroup', kept(forwardWorkgroupSource) + totalSource(lanes), constants)
    : kernel('group-norm', forwardSource + totalSource(lanes), constants);
  device.run(forward, { x, scale, bias, modulation: m, y, stats }, { ...params, eps }, grid, {
    flops: 9 * x.size,
  });

  // With h = (x − mean)·rstd, du = dy·act'(u) and k = scale·(1 + m₁):
  //     dx = rstd·(k·du − mean(k·du) − h·mean(k·du·h)), means over the group;
  // all else follows from the sums over an image's pixels s₀ = Σ du and s₁ = Σ du·h:
  //     dscale = Σₙ (1 + m₁)·s₁, dbias = Σₙ (1 + m₁)·s₀, dm₁ = scale·s₁ + bias·s₀, dm₂ = s₀.
  const inputs = modulation ? [x, scale, bias, modulation] : [x, scale, bias];
  differentiable('groupNorm', inputs, y, (dy, needs) => {
    const dx = device.empty(x.shape);
    const sums = device.empty([batch, 2, channels]);
    const backward = onWorkgroups
      ? kernel('group-norm-backward-workgroup', kept(backwardWorkgroupSource) + totalSource(lanes), constants)
      : kernel('group-norm-backward', backwardSource + totalSource(lanes), constants);
    const tensors = { x, dy, stats, scale, bias, modulation: m, dx, sums };
    device.run(backward, tensors, params, grid, { flops: 14 * x.size });
    let dscale: Tensor | null = null;
    let dbias: Tensor | null = null;
    let dmodulation: Tensor | null = null;
    if (needs[1] || needs[2]) {
      dscale = device.empty([channels]);
      dbias = device.empty([channels]);
      const k = kernel('group-norm-parameters', parametersSource, {
        T,
        MODULATION: modulation !== undefined,
      });
      device.run(
        k,
        { sums, modulation: m, dscale, dbias },
        { batch, channels: channels / lanes },
        linearGrid(channels / lanes),
      );
    }
    if (needs[3]) {
      dmodulation = device.empty([batch, 2 * channels]);
      const each = (batch * channels) / lanes;
      const k = kernel('group-norm-modulation', modulationSource, { T });
      device.run(
        k,
        { sums, scale, bias, dmodulation },
        { count: each, channels: channels / lanes },
        linearGrid(each),
      );
    }
    return modulation ? [dx, dscale, dbias, dmodulation] : [dx, dscale, dbias];
  });
  if (!y.node) stats.dispose();
  return y;
}
