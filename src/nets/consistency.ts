/**
 * Consistency models (Song et al. 2023): f(x, σ) = c_skip(σ) x + c_out(σ) F(c_in(σ) x, t(σ)), with f(x, σ_min) = x,
 * where t is ¼ ln σ for NCSN++ and 1000 times that for ADM. Images are NHWC in [-1, 1].
 */
import { tidy } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add } from '../kernels/broadcast.ts';
import { affine, clamp } from '../kernels/elementwise.ts';
import { type BindOptions, bindParameters, type Parameters, type TensorSource } from './parameters.ts';
import type { Embedding, UNet } from './unet.ts';

export interface Sigmas {
  readonly min: number;
  readonly max: number;
  readonly data: number;
}

/** σ_min, σ_max and σ_data of the published models. */
export const publishedSigmas: Sigmas = { min: 0.002, max: 80, data: 0.5 };

/** Of a network trained by a task of `cmap train`: a denoiser's scalings have no boundary at σ_min, and ECT keeps them. */
export const sigmasAfter = (task: unknown, sigmas: Sigmas): Sigmas =>
  task === 'edm' || task === 'ect' ? { ...sigmas, min: 0 } : sigmas;

/** Ascending noise levels σ_1 = min … σ_N = max (Karras et al. 2022, Eq. 5): (min^(1/ρ) + (i/(N−1))(max^(1/ρ) − min^(1/ρ)))^ρ. */
export function karrasLevels(count: number, min: number, max: number, rho = 7): number[] {
  if (!Number.isInteger(count) || count < 2)
    throw new InputError(`levels must be an integer from 2, got ${count}`);
  const [low, high] = [min ** (1 / rho), max ** (1 / rho)];
  return Array.from({ length: count }, (_, i) =>
    i === 0 ? min : i === count - 1 ? max : (low + (i / (count - 1)) * (high - low)) ** rho,
  );
}

/** What configurations call them: consistency_models' those of ADM networks, jcm the others. @param net a name or a family */
export const sigmaNamesOf = (net: string) =>
  /^(adm|improved-diffusion)/.test(net)
    ? ({ min: 'sigma_min', max: 'sigma_max', data: 'sigma_data' } as const)
    : ({ min: 't_min', max: 't_max', data: 'data_std' } as const);

/** Noise levels as settings of a network. */
export function sigmaSettings(net: string, { min, max, data }: Sigmas): Record<string, number> {
  const names = sigmaNamesOf(net);
  return { [names.min]: min, [names.max]: max, [names.data]: data };
}

/** The noise levels that a configuration names, as published where it does not. @throws InputError */
export function sigmasIn(family: string, config: Readonly<Record<string, unknown>>): Sigmas {
  const names = sigmaNamesOf(family);
  const value = (which: keyof Sigmas) => {
    const given = config[names[which]] ?? publishedSigmas[which];
    if (typeof given !== 'number' || !(given >= 0 && given < Number.POSITIVE_INFINITY))
      throw new InputError(
        `${family} config: ${names[which]} must be a number from 0, got ${JSON.stringify(given)}`,
      );
    return given;
  };
  const sigmas = { min: value('min'), max: value('max'), data: value('data') };
  if (sigmas.min >= sigmas.max || sigmas.data === 0)
    throw new InputError(
      `${family} config: ${names.min} ${sigmas.min} must be below ${names.max} ${sigmas.max}, and ${names.data} ${sigmas.data} above 0`,
    );
  return sigmas;
}

export function preconditioning(sigma: number, s: Sigmas) {
  const d2 = s.data ** 2;
  const root = Math.sqrt(sigma ** 2 + d2);
  return {
    cIn: 1 / root,
    cSkip: d2 / ((sigma - s.min) ** 2 + d2),
    cOut: ((sigma - s.min) * s.data) / root,
  };
}

export interface ConsistencyOptions extends BindOptions {
  readonly sigmas?: Sigmas;
  /** Activation checkpointing: less memory, about a third more work. */
  readonly recompute?: boolean;
}

/** Noise levels whose embeddings are kept. */
const embeddingsKept = 64;

export class ConsistencyModel {
  readonly sigmas: Sigmas;
  readonly recompute: boolean;
  readonly #embeddings = new Map<string, Embedding>();

  constructor(
    readonly device: Device,
    readonly unet: UNet,
    readonly parameters: Parameters,
    { sigmas = publishedSigmas, recompute = false }: ConsistencyOptions = {},
  ) {
    if (unet.outChannels !== unet.imageShape[2])
      throw new InputError(
        `consistency model: the network gives ${unet.outChannels} channels for images of ${unet.imageShape[2]}; it predicts a variance too (learn_sigma) and is no consistency model`,
      );
    this.sigmas = sigmas;
    this.recompute = recompute;
  }

  /** @throws InputError when the checkpoint does not fit the network */
  static load(
    device: Device,
    unet: UNet,
    source: TensorSource,
    options: ConsistencyOptions = {},
  ): ConsistencyModel {
    const parameters = bindParameters(device, unet.parameters, source, options);
    return new ConsistencyModel(device, unet, parameters, options);
  }

  /** [H, W, C] of one image. */
  get imageShape(): readonly [number, number, number] {
    return this.unet.imageShape;
  }

  /** Computes what depends on σ (and the classes) alone, once; a program recorded later does not repeat it. */
  prepare(sigma: number, labels?: readonly number[]): void {
    const key = `${sigma} ${labels}`;
    if (this.#embeddings.has(key)) return;
    const rows = this.#embed(sigma, labels);
    for (const row of rows.values()) this.device.keep(row);
    this.#embeddings.set(key, rows);
    // The oldest goes: a sampler may ask at levels without end. Programs hold those that they read.
    for (const [old, unused] of this.#embeddings) {
      if (this.#embeddings.size <= embeddingsKept) break;
      for (const row of unused.values()) row.dispose();
      this.#embeddings.delete(old);
    }
  }

  #embed(sigma: number, labels: readonly number[] | undefined): Embedding {
    const time = this.unet.timeOf(sigma);
    return this.unet.embed(this.device, this.parameters, labels ? labels.map(() => time) : [time], labels);
  }

  /**
   * f(x, σ), not clipped.
   * @param x [N, H, W, C]; at σ it has a standard deviation of about √(σ² + σ_data²)
   * @param labels classes of the N images, for a class-conditional model
   */
  denoise(x: Tensor, sigma: number, labels?: readonly number[]): Tensor {
    check(
      sigma > 0 && Number.isFinite(sigma),
      () => `consistency model: sigma must be positive, got ${sigma}`,
    );
    check(
      labels === undefined || labels.length === x.shape[0],
      () => `consistency model: ${labels?.length} labels for ${x.shape[0]} images`,
    );
    if (!this.device.recording) this.prepare(sigma, labels);
    const embedding = this.#embeddings.get(`${sigma} ${labels}`) ?? this.#embed(sigma, labels);
    const { cIn, cSkip, cOut } = preconditioning(sigma, this.sigmas);
    const { recompute } = this;
    return tidy([x], () => {
      const f = this.unet.forward(this.parameters, affine(x, cIn), embedding, { recompute });
      return add(affine(x, cSkip), affine(f, cOut));
    });
  }

  /** G(z) = clip(f(z, σ_max), −1, 1): one-step generation from z ~ N(0, σ_max²). */
  generate(z: Tensor): Tensor {
    return tidy([z], () => clamp(this.denoise(z, this.sigmas.max), -1, 1));
  }

  dispose(): void {
    for (const rows of this.#embeddings.values()) for (const row of rows.values()) row.dispose();
    this.#embeddings.clear();
    this.parameters.dispose();
  }
}
