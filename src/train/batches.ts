/**
 * Training batches: batch number `step` is a function of (seed, step), so that nothing of it has to be saved and any
 * order of computing it, in any thread, gives the same. An image's flip and crop depend on (seed, epoch, its place in the epoch).
 */
import { InputError } from '../engine/errors.ts';
import { purposes } from '../engine/random.ts';
import { augment } from './augment.ts';
import { permutation, uniforms } from './draws.ts';

/** A data set in memory, 8 bits a value. */
export interface ImageSet {
  readonly name: string;
  /** [N, H, W, C]. */
  readonly images: Uint8Array;
  readonly labels: ArrayLike<number>;
  readonly shape: readonly [number, number, number, number];
  /** Where images are files that `decodeFiles` brings into `images` when they are first needed: their paths, and 1 for those it has. */
  readonly files?: { readonly paths: readonly string[]; readonly decoded: Uint8Array };
}

export interface Batch {
  /** [B, H, W, C], as the network takes them: in [0, 1] for classifiers, in [−1, 1] for generators. */
  readonly images: Float32Array;
  readonly labels: Uint32Array;
  /** What augmentation did, [B, 9]. */
  readonly changes?: Float32Array;
}

export interface BatchSource {
  /** @param step 0, 1, … */
  at(step: number): Batch;
}

export interface BatchOptions {
  readonly batch: number;
  readonly seed: number;
  /** Images in [−1, 1] instead of [0, 1]. */
  readonly signed?: boolean;
  /** Probability of each change of EDM's augmentation, for images in [−1, 1]; 0. */
  readonly augment?: number;
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

  /** Which images batch `step` is made of. */
  indices(step: number): number[] {
    const { batch } = this.options;
    return Array.from({ length: batch }, (_, i) => this.#index(step * batch + i));
  }

  at(step: number): Batch {
    const { set, options } = this;
    const [n, height, width, channels] = set.shape;
    const { batch, seed, signed = false, augment: probability = 0, flip = false, crop = 0 } = options;
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
    if (signed) for (let i = 0; i < images.length; i++) images[i] = 2 * (images[i] as number) - 1;
    if (probability === 0) return { images, labels };
    return {
      images,
      labels,
      changes: augment(images, [height, width, channels], { probability, seed, step }),
    };
  }

  /** Which image is number `at` of all that are seen. */
  #index(at: number): number {
    const n = this.set.shape[0];
    return this.#order(Math.floor(at / n))[at % n] as number;
  }

  #order(epoch: number): Uint32Array {
    const known = this.#orders.get(epoch);
    if (known) return known;
    // A thread that makes every eighth batch may never come to the epoch in between.
    for (const old of this.#orders.keys()) if (old < epoch - 1) this.#orders.delete(old);
    const order = permutation(this.options.seed, epoch, this.set.shape[0]);
    this.#orders.set(epoch, order);
    return order;
  }
}
