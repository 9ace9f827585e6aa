/** How good a generator is: its one-step samples against real images, and how it restores clean ones. */

import type { CmapOptions } from '../cmap/options.ts';
import { type Classifier, classify } from '../cmap/vote.ts';
import { cmapDefence } from '../defences/cmap.ts';
import type { Device } from '../engine/device.ts';
import { purposes, randomNormal } from '../engine/random.ts';
import { sizeOf, type Tensor } from '../engine/tensor.ts';
import { affine } from '../kernels/elementwise.ts';
import type { ClassifierNet } from '../nets/classifier.ts';
import type { ConsistencyModel } from '../nets/consistency.ts';
import { mean } from '../report/statistics.ts';
import { type Moments, momentsOf } from './frechet.ts';
import { type EvaluationImages, pickImages } from './run.ts';

/** Images of one source in batches, each [n, H, W, C] in [0, 1] kept on the device until it was used. */
export interface ImageSource {
  readonly count: number;
  /** Images `from` to `from + n - 1`. */
  batch(from: number, n: number): Tensor;
}

/** Samples f(z, σ_max), z ~ N(0, σ_max²) keyed by the sample's number, clipped. */
export function samplesOf(model: ConsistencyModel, count: number, seed: number): ImageSource {
  const { device, imageShape, sigmas } = model;
  return {
    count,
    batch: (from, n) =>
      device.keep(
        device.scope(() => {
          const rows = device.tensor(
            Array.from({ length: n }, (_, i) => from + i),
            [n],
            'u32',
          );
          const noise = { seed, purpose: purposes.sampling, step: 0, rows };
          const z = affine(randomNormal(device, [n, ...imageShape], noise), sigmas.max);
          return affine(model.generate(z), 0.5, 0.5);
        }),
      ),
  };
}

/** A data set's images. */
export function imagesOf(device: Device, data: EvaluationImages): ImageSource {
  return {
    count: data.ids.length,
    batch: (from, n) =>
      pickImages(
        device,
        data,
        Array.from({ length: n }, (_, i) => from + i),
      ),
  };
}

/**
 * Mean and covariance of the images' features.
 * @param onImages called with the number of images done
 * @throws InputError where the network tells no features, or they are not finite
 */
export async function featureMoments(
  net: ClassifierNet,
  source: ImageSource,
  batch: number,
  onImages?: (done: number) => void,
): Promise<Moments> {
  let all: Float32Array | null = null;
  let d = 0;
  for (let from = 0; from < source.count; from += batch) {
    const x = source.batch(from, Math.min(batch, source.count - from));
    const features = net.device.scope(() => net.features(x));
    d = sizeOf(features.shape.slice(1));
    all ??= new Float32Array(source.count * d);
    all.set(await features.floats(), from * d);
    for (const tensor of [x, features]) tensor.dispose();
    onImages?.(Math.min(from + batch, source.count));
  }
  return momentsOf(all ?? [], d);
}

/** Means over images of what purification made of clean ones. */
export interface Restoration {
  readonly iterations: number;
  /** In [−1, 1], as in Eq. 10, at the last iteration; means over images and K. */
  readonly mae: number;
  readonly ssim: number;
  /** Images whose vote is the bare classifier's label of the original, of all. */
  readonly agreeing: number;
  readonly count: number;
}

/** Purifies clean images, from the start for each number of iterations. */
export async function restore(
  device: Device,
  model: ConsistencyModel,
  classifier: Classifier,
  data: EvaluationImages,
  options: { readonly cmap: CmapOptions; readonly iterations: readonly number[]; readonly batch: number },
  onProgress?: (part: number, what: string) => void,
): Promise<Restoration[]> {
  const { cmap, batch } = options;
  const n = data.ids.length;
  const source = imagesOf(device, data);
  const total = n * options.iterations.reduce((sum, t) => sum + t, 0);
  let done = 0;
  const results: Restoration[] = [];
  for (const iterations of options.iterations) {
    const defence = cmapDefence(model, classifier, { ...cmap, iterations });
    const last: { mae: number; ssim: number }[] = [];
    let agreeing = 0;
    for (let from = 0; from < n; from += batch) {
      const count = Math.min(batch, n - from);
      const x = source.batch(from, count);
      const bare = await classify(classifier, x);
      const judged = await defence.judge(x, {
        seed: cmap.seed,
        imageIds: data.ids.slice(from, from + count),
        onProgress: (part, what) => onProgress?.((done + part * count * iterations) / total, what),
      });
      done += count * iterations;
      last.push(...(judged.purification ?? []).flatMap(({ trace }) => trace.slice(-1)));
      agreeing += judged.votes.filter(({ label }, i) => label === bare[i]).length;
      for (const tensor of [x, judged.purified]) tensor?.dispose();
    }
    const average = (field: 'mae' | 'ssim') => mean(last.map((entry) => entry[field]));
    results.push({ iterations, mae: average('mae'), ssim: average('ssim'), agreeing, count: n });
  }
  return results;
}
