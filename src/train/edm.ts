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
import type { BatchSource } from './batches.ts';
import { type GenerativeOptions, type Given, Levels, logNormal, NoisyBatch } from './levels.ts';
import type { Recipe } from './recipe.ts';
import type { ParameterStore } from './store.ts';

export interface EdmOptions extends GenerativeOptions {
  readonly logMean: number;
  readonly logStd: number;
}

export class EdmRecipe implements Recipe {
  readonly #batch: NoisyBatch;
  readonly #levels: Levels;
  readonly #weight: Tensor;

  /** @param given noise and levels to take instead of random ones */
  constructor(
    device: Device,
    unet: UNet,
    store: ParameterStore,
    readonly source: BatchSource,
    readonly options: EdmOptions,
    readonly given?: Given & { levels(step: number): number[] },
  ) {
    this.#batch = new NoisyBatch(device, unet, options, given);
    // A denoiser has no boundary: σ_min is 0 in its scalings.
    this.#levels = new Levels(device, unet, store.parameters, options.batch, { ...options.sigmas, min: 0 });
    this.#weight = device.keep(device.zeros([options.batch]));
  }

  load(step: number): void {
    const { options } = this;
    const sigmas =
      this.given?.levels(step) ??
      logNormal(options, purposes.trainingLevel, step, options.logMean, options.logStd);
    this.#batch.write(step, this.source.at(step).images);
    this.#levels.write(sigmas);
    const d2 = options.sigmas.data ** 2;
    this.#weight.write(sigmas.map((s) => (s ** 2 + d2) / (s ** 2 * d2)));
  }

  loss(p: Parameters): Tensor {
    const y = this.#batch.images;
    const x = add(y, mul(this.#batch.noise(), this.#levels.sigma));
    const error = sub(this.#levels.denoise(p, x, this.#batch.forwardOptions()), y);
    return mul(mean(square(error), [1, 2, 3]), this.#weight);
  }

  dispose(): void {
    for (const part of [this.#batch, this.#levels, this.#weight]) part.dispose();
  }
}
