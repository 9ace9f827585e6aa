/**
 * Denoisers (Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", EDM): with y an
 * image, n noise and ln σ ~ N(P_mean, P_std²), minimise λ(σ)·mean (D(y + σn, σ) − y)², λ(σ) = (σ² + σ_d²)/(σ σ_d)².
 */
import type { Device } from '../engine/device.ts';
import { purposes } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, mul, sub } from '../kernels/broadcast.ts';
import { square } from '../kernels/elementwise.ts';
import { mean } from '../kernels/reduce.ts';
import type { Parameters } from '../nets/parameters.ts';
import type { UNet } from '../nets/unet.ts';
import { augmentLabels } from './augment.ts';
import type { BatchSource } from './batches.ts';
import { type GenerativeOptions, type Given, Levels, logNormal, NoisyBatch } from './levels.ts';
import { type Recipe, type Rows, rowsOf } from './recipe.ts';
import type { ParameterStore } from './store.ts';

export interface EdmOptions extends GenerativeOptions {
  readonly logMean: number;
  readonly logStd: number;
  /** Probability of each augmentation; above 0 the network is told what the source did to the images. */
  readonly augment?: number;
}

export class EdmRecipe implements Recipe {
  readonly #batch: NoisyBatch;
  readonly #levels: Levels;
  readonly #weight: Tensor;
  /** What was done to the images, [B, 9]. */
  readonly #told: Tensor | null;

  /** @param given noise and levels to take instead of random ones */
  constructor(
    device: Device,
    readonly unet: UNet,
    store: ParameterStore,
    readonly source: BatchSource,
    readonly options: EdmOptions,
    readonly given?: Given & { levels(step: number): number[] },
  ) {
    this.#batch = new NoisyBatch(device, unet, options, given);
    // A denoiser has no boundary: σ_min is 0 in its scalings.
    this.#levels = new Levels(device, unet, store.parameters, options.batch, { ...options.sigmas, min: 0 });
    this.#weight = device.keep(device.zeros([options.batch]));
    this.#told = options.augment ? device.keep(device.zeros([options.batch, augmentLabels])) : null;
  }

  get batch(): number {
    return this.options.batch;
  }

  load(step: number): void {
    const { options } = this;
    const sigmas =
      this.given?.levels(step) ??
      logNormal(options, purposes.trainingLevel, step, options.logMean, options.logStd);
    const { images, changes } = this.source.at(step);
    this.#batch.write(step, images);
    this.#told?.write(changes as Float32Array);
    this.#levels.write(sigmas);
    const d2 = options.sigmas.data ** 2;
    this.#weight.write(sigmas.map((s) => (s ** 2 + d2) / (s ** 2 * d2)));
  }

  loss(p: Parameters, rows: Rows): Tensor {
    const y = rowsOf(this.#batch.images, rows);
    const x = add(y, mul(this.#batch.noise(rows), rowsOf(this.#levels.sigma, rows)));
    const error = sub(
      this.#levels.denoise(p, x, rows, this.#batch.forwardOptions(rows), this.#told ?? undefined),
      y,
    );
    return mul(mean(square(error), [1, 2, 3]), rowsOf(this.#weight, rows));
  }

  dispose(): void {
    for (const part of [this.#batch, this.#levels, this.#weight, this.#told]) part?.dispose();
  }
}
