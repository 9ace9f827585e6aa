/**
 * Training batches: batch number `step` is a function of (seed, step), so that nothing of it has to be saved and any
 * order of computing it gives the same. An image's flip and crop depend on (seed, epoch, its place in the epoch).
 */
import { InputError } from '../engine/errors.ts';
import { purposes } from '../engine/random.ts';
import { permutation, uniforms } from './draws.ts';

/** A data set in memory, 8 bits a value. */
export interface ImageSet {
  readonly name: string;
  /** [N, H, W, C]. */
  readonly images: Uint8Array;
  readonly labels: ArrayLike<number>;
  readonly shape: readonly [number, number, number, number];
  /** Where images are files that are decoded when they are first needed: brings these into `images`. @throws InputError */
  readonly decode?: (indices: readonly number[]) => Promise<void>;
}

export interface Batch {
  /** [B, H, W, C] in [0, 1]. */
  readonly images: Float32Array;
  readonly labels: Uint32Array;
}

export interface BatchSource {
  /** @param step 0, 1, … */
  at(step: number): Batch;
}

export interface BatchOptions {
  readonly batch: number;
  readonly seed: number;
  /** Mirror left and right with probability ½. */
  readonly flip?: boolean;
  /** Shift by up to so many pixels each way; what comes in is black. */
  readonly crop?: number;
}

export class Batches implements BatchSource {
  readonly #orders = new Map<number, Uint32Array>();

  /** @throws InputError for a batch or a crop out of range */
  constructor(
    readonly set: ImageSet,
    readonly options: BatchOptions,
  ) {
    const [n, height, width] = set.shape;
    const { batch, crop = 0 } = options;
    if (!Number.isInteger(batch) || batch < 1)
      throw new InputError(`batch must be a positive integer, got ${batch}`);
    if (n < 1) throw new InputError(`${set.name}: holds no images`);
    if (!Number.isInteger(crop) || crop < 0 || crop >= Math.min(height, width))
      throw new InputError(
        `crop must be an integer of 0 to ${Math.min(height, width) - 1} pixels, got ${crop}`,
      );
  }

  /** Brings what batch `step` needs into memory; before `at`, where images are files. @throws InputError for a damaged file */
  async ready(step: number): Promise<void> {
    const { set, options } = this;
    if (!set.decode) return;
    const first = step * options.batch;
    await set.decode(Array.from({ length: options.batch }, (_, i) => this.#index(first + i)));
  }

  at(step: number): Batch {
    const { set, options } = this;
    const [n, height, width, channels] = set.shape;
    const { batch, seed, flip = false, crop = 0 } = options;
    const size = height * width * channels;
    const images = new Float32Array(batch * size);
    const labels = new Uint32Array(batch);
    for (let i = 0; i < batch; i++) {
      const at = step * batch + i;
      const [epoch, place] = [Math.floor(at / n), at % n];
      const index = this.#index(at);
      labels[i] = set.labels[index] as number;
      let [mirror, down, right] = [false, 0, 0];
      if (flip || crop > 0) {
        const draw = uniforms({ seed, purpose: purposes.augmentation, step: epoch, row: place });
        const next = () => draw.next().value;
        mirror = next() < 0.5 && flip;
        down = Math.floor(next() * (2 * crop + 1)) - crop;
        right = Math.floor(next() * (2 * crop + 1)) - crop;
      }
      for (let y = Math.max(0, -down); y < Math.min(height, height - down); y++) {
        for (let x = Math.max(0, -right); x < Math.min(width, width - right); x++) {
          const from = x + right;
          const source = index * size + ((y + down) * width + (mirror ? width - 1 - from : from)) * channels;
          const target = i * size + (y * width + x) * channels;
          for (let c = 0; c < channels; c++) images[target + c] = (set.images[source + c] as number) / 255;
        }
      }
    }
    return { images, labels };
  }

  /** Which image is number `at` of all that are seen. */
  #index(at: number): number {
    const n = this.set.shape[0];
    return this.#order(Math.floor(at / n))[at % n] as number;
  }

  #order(epoch: number): Uint32Array {
    const known = this.#orders.get(epoch);
    if (known) return known;
    this.#orders.delete(epoch - 2);
    const order = permutation(this.options.seed, epoch, this.set.shape[0]);
    this.#orders.set(epoch, order);
    return order;
  }
}
