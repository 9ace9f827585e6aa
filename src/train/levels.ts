/** A batch at noise levels that change from step to step: what a U-Net needs of them, as tensors that the host writes. */
import type { Device } from '../engine/device.ts';
import { purposes, randomNormal } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, mul } from '../kernels/broadcast.ts';
import { type DropoutOptions, dropout } from '../kernels/dropout.ts';
import { preconditioning, type Sigmas } from '../nets/consistency.ts';
import type { Parameters } from '../nets/parameters.ts';
import type { Recompute } from '../nets/recompute.ts';
import type { ForwardOptions, UNet } from '../nets/unet.ts';
import { normals } from './draws.ts';
import { type Rows, rowIds, rowsOf } from './recipe.ts';

/** One noise level an image. */
export class Levels {
  /** σ, [B, 1, 1, 1]. */
  readonly sigma: Tensor;
  readonly #waves: Tensor;
  readonly #in: Tensor;
  readonly #skip: Tensor;
  readonly #out: Tensor;

  constructor(
    readonly device: Device,
    readonly unet: UNet,
    /** Whose fixed frequencies the embedding uses. */
    readonly parameters: Parameters,
    readonly batch: number,
    readonly sigmas: Sigmas,
  ) {
    const column = () => device.keep(device.zeros([batch, 1, 1, 1]));
    [this.sigma, this.#in, this.#skip, this.#out] = [column(), column(), column(), column()];
    const waves = unet.waves(parameters, [0]).length;
    this.#waves = device.keep(device.zeros([batch, waves]));
  }

  /** @param levels σ of each image, above 0 */
  write(levels: readonly number[]): void {
    const { unet, parameters, sigmas } = this;
    this.sigma.write(levels);
    const scales = levels.map((sigma) => preconditioning(sigma, sigmas));
    this.#in.write(scales.map((s) => s.cIn));
    this.#skip.write(scales.map((s) => s.cSkip));
    this.#out.write(scales.map((s) => s.cOut));
    this.#waves.write(unet.waves(parameters, levels.map(unet.timeOf)));
  }

  /** c_skip x + c_out F(c_in x, t(σ)): the denoiser or consistency function. */
  denoise(p: Parameters, x: Tensor, rows: Rows, options: ForwardOptions = {}, augment?: Tensor): Tensor {
    const of = (column: Tensor) => rowsOf(column, rows);
    const told = augment && of(augment);
    const embedding = this.unet.embed(this.device, p, of(this.#waves), undefined, told);
    const f = this.unet.forward(p, mul(x, of(this.#in)), embedding, options);
    return add(mul(x, of(this.#skip)), mul(f, of(this.#out)));
  }

  dispose(): void {
    for (const t of [this.sigma, this.#waves, this.#in, this.#skip, this.#out]) t.dispose();
  }
}

export interface GenerativeOptions {
  readonly batch: number;
  readonly seed: number;
  readonly sigmas: Sigmas;
  /** Share of dropped activations; 0. */
  readonly dropout?: number;
  /** Activation checkpointing. */
  readonly recompute?: Recompute;
}

/** Replaces what is drawn at random, for comparisons with other programs. */
export interface Given {
  /** [B, H, W, C], standard normal. */
  noise(step: number): Float32Array;
}

/** The clean images, their noise and the dropout masks of a step. */
export class NoisyBatch {
  /** y in [−1, 1], [B, H, W, C]. */
  readonly images: Tensor;
  readonly #given: Tensor | null;
  readonly #step: Tensor;

  constructor(
    readonly device: Device,
    readonly unet: UNet,
    readonly options: GenerativeOptions,
    readonly given?: Given,
  ) {
    const shape = [options.batch, ...unet.imageShape];
    this.images = device.keep(device.zeros(shape));
    this.#given = given ? device.keep(device.zeros(shape)) : null;
    this.#step = device.keep(device.zeros([1], 'u32'));
  }

  /** @param images in [−1, 1] */
  write(step: number, images: Float32Array): void {
    this.images.write(images);
    this.#step.write([step]);
    if (this.given) this.#given?.write(this.given.noise(step));
  }

  /** Standard normal, another at each step. */
  noise(rows: Rows): Tensor {
    const { device, images, options } = this;
    if (this.#given) return rowsOf(this.#given, rows);
    const random = { seed: options.seed, purpose: purposes.trainingNoise, step: this.#step };
    const shape = [rows.count, ...images.shape.slice(1)];
    return randomNormal(device, shape, { ...random, rows: rowIds(device, rows) });
  }

  /** How the network is run: every pass of a step drops the same. */
  forwardOptions(rows: Rows): ForwardOptions {
    const { dropout: rate = 0, seed, recompute } = this.options;
    return { recompute, dropout: layerDropout({ rate, seed, step: this.#step, first: rows.first }) };
  }

  dispose(): void {
    for (const t of [this.images, this.#given, this.#step]) t?.dispose();
  }
}

/** Dropout for the layers of a network, each with masks of its own; undefined where the rate is 0. */
export function layerDropout(
  options: Omit<DropoutOptions, 'purpose'>,
): ((name: string, h: Tensor) => Tensor) | undefined {
  if (options.rate === 0) return undefined;
  const layers = new Map<string, number>();
  return (name, h) => {
    const layer = layers.get(name) ?? layers.size;
    layers.set(name, layer);
    return dropout(h, { ...options, purpose: purposes.dropout + 256 * (layer + 1) });
  };
}

/** σ of each image with ln σ ~ N(mean, std²), by (seed, step, image). */
export function logNormal(
  { seed, batch }: GenerativeOptions,
  purpose: number,
  step: number,
  mean: number,
  std: number,
): number[] {
  return Array.from({ length: batch }, (_, row) =>
    Math.exp(mean + std * normals({ seed, purpose, step, row }).next().value),
  );
}
