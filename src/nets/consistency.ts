/**
 * Consistency models (Song et al. 2023): f(x, σ) = c_skip(σ) x + c_out(σ) F(c_in(σ) x, ¼ ln σ), with f(x, σ_min) = x.
 * Images are NHWC in [-1, 1].
 */
import type { Device } from '../engine/device.ts';
import { check } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add } from '../kernels/broadcast.ts';
import { affine, clamp } from '../kernels/elementwise.ts';
import { type NcsnppConfig, type NcsnppPlan, ncsnppEmbedding, ncsnppForward, ncsnppPlan } from './ncsnpp.ts';
import { bindParameters, type Parameters, type TensorSource } from './parameters.ts';

export interface Sigmas {
  readonly min: number;
  readonly max: number;
  readonly data: number;
}

/** σ_min, σ_max and σ_data of the published models. */
export const publishedSigmas: Sigmas = { min: 0.002, max: 80, data: 0.5 };

export function preconditioning(sigma: number, s: Sigmas) {
  const d2 = s.data ** 2;
  const root = Math.sqrt(sigma ** 2 + d2);
  return {
    cIn: 1 / root,
    cSkip: d2 / ((sigma - s.min) ** 2 + d2),
    cOut: ((sigma - s.min) * s.data) / root,
    cond: 0.25 * Math.log(sigma),
  };
}

export class ConsistencyModel {
  readonly #embeddings = new Map<number, ReadonlyMap<string, Tensor>>();

  constructor(
    readonly device: Device,
    readonly plan: NcsnppPlan,
    readonly parameters: Parameters,
    readonly fourier: Float32Array,
    readonly sigmas: Sigmas = publishedSigmas,
  ) {}

  static load(
    device: Device,
    config: NcsnppConfig,
    source: TensorSource,
    sigmas: Sigmas = publishedSigmas,
  ): ConsistencyModel {
    const plan = ncsnppPlan(config);
    const parameters = bindParameters(device, plan.shapes, source);
    return new ConsistencyModel(
      device,
      plan,
      parameters,
      source.floats('GaussianFourierProjection_0.W'),
      sigmas,
    );
  }

  /** [H, W, C] of one image. */
  get imageShape(): readonly [number, number, number] {
    const { image_size, num_channels } = this.plan.config;
    return [image_size, image_size, num_channels];
  }

  /** Computes what depends on σ alone, once; a program recorded later at this σ does not repeat it. */
  prepare(sigma: number): void {
    if (this.#embeddings.has(sigma)) return;
    const rows = this.#embed(sigma);
    for (const row of rows.values()) this.device.keep(row);
    this.#embeddings.set(sigma, rows);
  }

  #embed(sigma: number): ReadonlyMap<string, Tensor> {
    const { cond } = preconditioning(sigma, this.sigmas);
    return ncsnppEmbedding(this.device, this.plan, this.parameters, this.fourier, cond);
  }

  /**
   * f(x, σ), not clipped.
   * @param x [N, H, W, C]; at σ it has a standard deviation of about √(σ² + σ_data²)
   */
  denoise(x: Tensor, sigma: number): Tensor {
    check(
      sigma > 0 && Number.isFinite(sigma),
      () => `consistency model: sigma must be positive, got ${sigma}`,
    );
    if (!this.device.recording) this.prepare(sigma);
    const embedding = this.#embeddings.get(sigma) ?? this.#embed(sigma);
    const { cIn, cSkip, cOut } = preconditioning(sigma, this.sigmas);
    const f = ncsnppForward(this.plan, this.parameters, affine(x, cIn), embedding);
    return add(affine(x, cSkip), affine(f, cOut));
  }

  /** G(z) = clip(f(z, σ_max), −1, 1): one-step generation from z ~ N(0, σ_max²). */
  generate(z: Tensor): Tensor {
    return clamp(this.denoise(z, this.sigmas.max), -1, 1);
  }

  dispose(): void {
    for (const rows of this.#embeddings.values()) for (const row of rows.values()) row.dispose();
    this.#embeddings.clear();
    this.parameters.dispose();
  }
}
