/**
 * The transfer protocol on one data set: classify, attack the bare classifier, purify clean and attacked images,
 * classify by vote. Images are processed in batches; results do not depend on the batch size, because every random
 * number is keyed by the image's number.
 */
import { type PgdOptions, pgd } from '../attacks/pgd.ts';
import type { CmapOptions } from '../cmap/options.ts';
import { purify, type TraceEntry } from '../cmap/purify.ts';
import { type Classifier, classify, classifyEach, countVotes, type Vote } from '../cmap/vote.ts';
import type { Device } from '../engine/device.ts';
import { concat, slice } from '../kernels/shape.ts';
import type { ConsistencyModel } from '../nets/consistency.ts';

export interface EvaluationInput {
  /** [N, H, W, C] in [0, 1], row-major. */
  readonly images: Float32Array;
  readonly shape: readonly [number, number, number, number];
  readonly labels: readonly number[];
  readonly attack: PgdOptions;
  readonly cmap: CmapOptions;
  /** Images purified together, clean and attacked counted once each. */
  readonly batch: number;
}

export interface ImageRecord {
  readonly image: number;
  readonly label: number;
  /** The bare classifier's labels. */
  readonly clean: number;
  readonly attacked: number;
  readonly defendedClean: Vote;
  readonly defendedAttacked: Vote;
  /** Of the attacked image's purification. */
  readonly trace: readonly TraceEntry[];
  readonly adversarial: Float32Array;
  /** K purified versions of the attacked image, [K, H, W, C]. */
  readonly purified: Float32Array;
  /** The classifier's label of each. */
  readonly purifiedLabels: readonly number[];
}

export interface EvaluationHooks {
  /** Network evaluations an image done, of `total`: an attack step is one, a purification iteration 2K. */
  readonly onProgress?: (done: number, total: number, what: string) => void;
}

export async function evaluate(
  device: Device,
  model: ConsistencyModel,
  classifier: Classifier,
  input: EvaluationInput,
  hooks: EvaluationHooks = {},
): Promise<ImageRecord[]> {
  const [n, ...image] = input.shape;
  const size = image.reduce((a, b) => a * b, 1);
  const batches = Math.ceil(n / input.batch);
  // Clean and attacked image, K latents each.
  const iterationCost = 2 * input.cmap.k;
  const total = batches * (input.attack.steps + iterationCost * input.cmap.iterations);
  let before = 0;
  const records: ImageRecord[] = [];
  for (let from = 0; from < n; from += input.batch) {
    const count = Math.min(input.batch, n - from);
    const ids = Array.from({ length: count }, (_, i) => from + i);
    const labels = input.labels.slice(from, from + count);
    const x = device.tensor(input.images.subarray(from * size, (from + count) * size), [count, ...image]);
    const clean = await classify(classifier, x);
    const adversarial = await pgd(classifier, x, labels, input.attack, {
      imageIds: ids,
      onStep: (done) => hooks.onProgress?.(before + done, total, 'attack'),
    });
    before += input.attack.steps;
    const attacked = await classify(classifier, adversarial);

    const both = device.scope(() => concat([x, adversarial], 0));
    const purified = await purify(model, both, input.cmap, {
      imageIds: [...ids, ...ids],
      onCompile: (done, of) => hooks.onProgress?.(before, total, `compile ${done}/${of}`),
      onIteration: (done) => hooks.onProgress?.(before + iterationCost * done, total, 'purify'),
    });
    before += iterationCost * input.cmap.iterations;
    const labelsOf = await classifyEach(classifier, purified.images);
    const votes = labelsOf.map((each) => countVotes(each, classifier.classes));
    const second = device.scope(() => slice(purified.images, 0, count, count));
    const [adversarialHost, purifiedHost] = await Promise.all([adversarial.floats(), second.floats()]);
    for (let i = 0; i < count; i++) {
      const k = input.cmap.k * size;
      records.push({
        image: from + i,
        label: labels[i] as number,
        clean: clean[i] as number,
        attacked: attacked[i] as number,
        defendedClean: votes[i] as Vote,
        defendedAttacked: votes[count + i] as Vote,
        trace: purified.trace[count + i] as TraceEntry[],
        adversarial: adversarialHost.slice(i * size, (i + 1) * size),
        purified: purifiedHost.slice(i * k, (i + 1) * k),
        purifiedLabels: labelsOf[count + i] as number[],
      });
    }
    for (const tensor of [x, adversarial, both, purified.images, purified.latents, second]) tensor.dispose();
  }
  return records;
}

/** How many records are right. */
export function countRight(records: readonly ImageRecord[]) {
  const count = (right: (r: ImageRecord) => boolean) => records.filter(right).length;
  return {
    clean: count((r) => r.clean === r.label),
    attacked: count((r) => r.attacked === r.label),
    purified: count((r) => r.defendedAttacked.label === r.label),
    defendedClean: count((r) => r.defendedClean.label === r.label),
  };
}
