/**
 * Latent vector consistency prediction (Eq. 14): each of the K purified images is classified, the class with most
 * votes wins, the lowest class index wins a tie.
 */
import type { Tensor } from '../engine/tensor.ts';
import { argmax } from '../kernels/reduce.ts';
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

/** Labels of single images. @param x [N, H, W, C] in [0, 1] */
export async function classify(classifier: Classifier, x: Tensor): Promise<number[]> {
  const labels = x.device.scope(() => argmax(classifier.logits(x)));
  const host = await labels.read();
  labels.dispose();
  return [...host];
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
