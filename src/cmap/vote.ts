/**
 * Latent vector consistency prediction (Eq. 14): each of the K purified images is classified, the class with most
 * votes wins, the lowest class index wins a tie.
 */
import { CmapError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { reshape } from '../kernels/shape.ts';

/** Anything that gives logits for images in [0, 1]. */
export interface Classifier {
  readonly classes: number;
  /** [N, H, W, C] in [0, 1] -> [N, classes]. Logits, not probabilities. */
  logits(x: Tensor): Tensor;
}

export interface Vote {
  readonly label: number;
  /** Votes by class; they add up to K. */
  readonly votes: readonly number[];
}

/**
 * Labels of single images: the class of the highest logit, the lowest of equals.
 * @param x [N, H, W, C] in [0, 1]
 * @throws CmapError where a logit is NaN
 */
export async function classify(classifier: Classifier, x: Tensor): Promise<number[]> {
  const logits = x.device.scope(() => classifier.logits(x));
  const host = await logits.floats();
  const [n, classes] = logits.shape as [number, number];
  logits.dispose();
  return Array.from({ length: n }, (_, i) => {
    const row = host.subarray(i * classes, (i + 1) * classes);
    const top = Math.max(...row);
    if (Number.isNaN(top))
      throw new CmapError(
        `classify: the logits of image ${i} hold NaN; look for it in the weights or the image`,
      );
    return row.indexOf(top);
  });
}

/** Labels of each of the K images of B. @param images [B, K, H, W, C] in [0, 1] */
export async function classifyEach(classifier: Classifier, images: Tensor): Promise<number[][]> {
  const [b, k, ...image] = images.shape as [number, number, number, number, number];
  const flat = images.device.scope(() => reshape(images, [b * k, ...image]));
  const labels = await classify(classifier, flat);
  flat.dispose();
  return Array.from({ length: b }, (_, i) => labels.slice(i * k, (i + 1) * k));
}

/** @param images [B, K, H, W, C] in [0, 1] */
export async function classifyByVote(classifier: Classifier, images: Tensor): Promise<Vote[]> {
  return (await classifyEach(classifier, images)).map((labels) => countVotes(labels, classifier.classes));
}

export function countVotes(labels: readonly number[], classes: number): Vote {
  const votes = new Array<number>(classes).fill(0);
  for (const label of labels) votes[label]!++;
  return { label: votes.indexOf(Math.max(...votes)), votes };
}
