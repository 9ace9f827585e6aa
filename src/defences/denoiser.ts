/**
 * What diffusion defences ask of a network: D(u, σ), the mean of clean images y in [-1, 1] given u = y + σn. Every
 * network gives it in one form,
 *   D(u, σ) = c_skip u + c_out F(c_in u, time),
 * with the scalings of its training. Variance-preserving networks predict the noise ε of x = u/√(1+σ²), so that
 * ᾱ = 1/(1+σ²) and D = u − σε.
 */
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, mul } from '../kernels/broadcast.ts';
import { slice } from '../kernels/shape.ts';
import { type ConsistencyModel, preconditioning } from '../nets/consistency.ts';
import type { Parameters } from '../nets/parameters.ts';
import type { ScoreNetwork } from '../nets/score.ts';
import type { UNet } from '../nets/unet.ts';
import { cosineLevels, linearLevels, vpTime } from './schedules.ts';

export interface Scalings {
  readonly skip: number;
  readonly out: number;
  readonly in: number;
  /** The network's time label. */
  readonly time: number;
}

export interface Denoiser {
  readonly device: Device;
  readonly unet: UNet;
  readonly parameters: Parameters;
  /**
   * For the record: 'edm' and 'vp…' are denoisers; a 'consistency' function only stands for one: it gives a point of
   * the data where the denoiser gives their mean.
   */
  readonly kind: 'consistency' | 'edm' | 'vp' | 'vp-linear' | 'vp-cosine';
  /** Activation checkpointing inside the network. */
  readonly recompute: boolean;
  scalings(sigma: number): Scalings;
}

/** @param trained as which the weights were trained: a consistency function, or a denoiser (EDM) in the same scalings */
export function consistencyDenoiser(
  model: ConsistencyModel,
  trained: 'consistency' | 'edm' = 'consistency',
): Denoiser {
  const { device, unet, parameters, recompute } = model;
  unconditional(unet);
  // A denoiser has no boundary: σ_min is 0 in its scalings.
  const sigmas = trained === 'edm' ? { ...model.sigmas, min: 0 } : model.sigmas;
  return {
    device,
    unet,
    parameters,
    kind: trained,
    recompute,
    scalings(sigma) {
      const { cIn, cSkip, cOut } = preconditioning(sigma, sigmas);
      return { skip: cSkip, out: cOut, in: cIn, time: unet.timeOf(sigma) };
    },
  };
}

/**
 * DDPM++ knows continuous time, 999 t, of the VP-SDE with β from 0.1 to 20; improved-diffusion knows the steps of its
 * configuration's schedule. Between steps the label is interpolated in ln σ.
 */
export function scoreDenoiser(net: ScoreNetwork): Denoiser {
  const { device, unet, parameters } = net;
  unconditional(unet);
  const { diffusion } = unet;
  const levels = diffusion
    ? (diffusion.schedule === 'cosine' ? cosineLevels : linearLevels)(diffusion.steps)
    : [];
  return {
    device,
    unet,
    parameters,
    kind: diffusion ? `vp-${diffusion.schedule}` : 'vp',
    recompute: false,
    scalings: (sigma) => ({
      skip: 1,
      out: -sigma,
      in: 1 / Math.sqrt(1 + sigma ** 2),
      time: diffusion ? stepOf(sigma, levels) * diffusion.labelsPerStep : 999 * vpTime(sigma),
    }),
  };
}

function unconditional(unet: UNet): void {
  if (unet.classes > 0)
    throw new InputError(
      `a defence does not know the class: the network is conditional on ${unet.classes} classes; give an unconditional one`,
    );
}

/** The fractional index of σ among ascending levels, in ln σ; cut at their ends. */
function stepOf(sigma: number, levels: readonly number[]): number {
  const above = levels.findIndex((level) => level >= sigma);
  if (above === 0) return 0;
  if (above < 0) return levels.length - 1;
  const [low, high] = [levels[above - 1] as number, levels[above] as number];
  return above - 1 + Math.log(sigma / low) / Math.log(high / low);
}

/** D with the level in tensors, which a recorded program reads anew. @param c scalings, each [1, 1, 1, 1] */
export function denoise(
  { device, unet, parameters, recompute }: Denoiser,
  u: Tensor,
  waves: Tensor,
  c: { readonly skip: Tensor; readonly out: Tensor; readonly in: Tensor },
): Tensor {
  const embedding = unet.embed(device, parameters, waves);
  const f = unet.forward(parameters, mul(u, c.in), embedding, { recompute });
  const channels = unet.imageShape[2];
  const predicted = unet.outChannels > channels ? slice(f, 3, 0, channels) : f;
  return add(mul(u, c.skip), mul(predicted, c.out));
}
