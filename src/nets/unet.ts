/** What the two families of U-Nets have in common, as seen by the models built on them. */
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import type { ParameterShapes, Parameters } from './parameters.ts';
import type { Recompute } from './recompute.ts';

/** Per block, what its time embedding adds: [1, …] for a batch at one time, else [N, …]. */
export type Embedding = ReadonlyMap<string, Tensor>;

export interface ForwardOptions {
  /**
   * Keep only what lies between residual blocks for the gradient and compute the rest again: activation
   * checkpointing, about a third more work for a fraction of the memory.
   */
  readonly recompute?: Recompute;
  /** Training's dropout, between the second normalisation and the last convolution of the residual block `name`. */
  readonly dropout?: (name: string, h: Tensor) => Tensor;
}

export interface UNet {
  readonly family: string;
  readonly imageShape: readonly [height: number, width: number, channels: number];
  /** Channels of the output: those of the image, or twice as many where a variance is learned too. */
  readonly outChannels: number;
  /** Of a class-conditional network; 0 for an unconditional one. */
  readonly classes: number;
  readonly parameters: ParameterShapes;
  /** As which a noise predictor that knows discrete steps was trained; its label is the step times `labelsPerStep`. */
  readonly diffusion?: {
    readonly steps: number;
    readonly schedule: 'linear' | 'cosine';
    readonly labelsPerStep: number;
  };
  /** The time label under which consistency models of this family know the noise level σ. */
  timeOf(sigma: number): number;
  /** The embedding's sines and cosines, in double on the host: row-major, a row a time label. */
  waves(p: Parameters, times: readonly number[]): Float32Array;
  /**
   * All that depends on the time label (and the class) alone, so that a loop at one noise level computes it once.
   * @param times one label for the batch, or one for each image; or their `waves` [N, …] as a tensor, which a recorded
   *   program reads anew at each run
   * @param labels classes of the images, for a class-conditional network
   * @param augment [N, …]: what training did to the images, for a network that is told; without it, nothing
   */
  embed(
    device: Device,
    p: Parameters,
    times: readonly number[] | Tensor,
    labels?: readonly number[],
    augment?: Tensor,
  ): Embedding;
  /**
   * @param x [N, H, W, C]
   * @returns [N, H, W, outChannels]
   */
  forward(p: Parameters, x: Tensor, embedding: Embedding, options?: ForwardOptions): Tensor;
}

/** Checks that every named value is a positive integer. @throws InputError */
export function checkCounts(what: string, values: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(values)) {
    if (!Number.isInteger(value) || (value as number) < 1)
      throw new InputError(`${what}: ${name} must be a positive integer, got ${JSON.stringify(value)}`);
  }
}

/** Checks that settings have one of the values that are built. @throws InputError */
export function checkChoices(
  what: string,
  config: object,
  choices: Readonly<Record<string, readonly unknown[]>>,
): void {
  for (const [name, values] of Object.entries(choices)) {
    const value = (config as Record<string, unknown>)[name];
    const text = JSON.stringify(value);
    const built = values.map((v) => JSON.stringify(v));
    if (!built.includes(text))
      throw new InputError(`${what}: ${name} ${text} is not built, only ${built.join(' and ')}`);
  }
}

/** What published configurations say beside the settings of a family. */
export interface Beside {
  /** Settings of training, or that change nothing here. */
  readonly ignored: readonly string[];
  /** Settings of which one value is built. */
  readonly only: Readonly<Record<string, unknown>>;
}

/**
 * A configuration given as JSON, with its defaults: a key that the family does not have is refused with those that
 * it has. @throws InputError
 */
export function withDefaults<T extends object>(
  what: string,
  given: unknown,
  defaults: T,
  { ignored, only }: Beside = { ignored: [], only: {} },
): T {
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw new InputError(`${what}: not an object of settings`);
  const config: Record<string, unknown> = Object.fromEntries(Object.entries(defaults));
  for (const [key, value] of Object.entries(given)) {
    if (Object.hasOwn(defaults, key)) config[key] = value;
    else if (Object.hasOwn(only, key)) checkChoices(what, given, { [key]: [only[key]] });
    else if (!ignored.includes(key))
      throw new InputError(`${what}: there is no "${key}"; there are ${Object.keys(defaults).join(', ')}`);
  }
  return config as T;
}
