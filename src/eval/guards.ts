/** The usual mistakes, named before they become numbers. */
import { isDistribution } from '../attacks/autoattack.ts';
import { type Classifier, classify } from '../cmap/vote.ts';
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { div, sub } from '../kernels/broadcast.ts';
import { cifar10Normalisation, imageNetNormalisation } from '../nets/classifier.ts';
import { mcnemar } from '../report/statistics.ts';

/** Images must lie in [0, 1] and use that range. @throws InputError naming the likely mistake */
export function checkPixelRange(what: string, images: Float32Array): void {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const v of images) {
    if (!(v <= high)) high = v;
    if (!(v >= low)) low = v;
    if (Number.isNaN(v)) throw new InputError(`${what}: holds NaN; pixels must be in [0, 1]`);
  }
  const range = `pixels are in [${low.toPrecision(3)}, ${high.toPrecision(3)}], not in [0, 1]`;
  if (low < 0)
    throw new InputError(
      `${what}: ${range}; they look normalised: give images as they are, normalisation belongs into the model`,
    );
  if (high > 1) throw new InputError(`${what}: ${range}; divide by ${high > 2 ? 255 : 'the maximum'}`);
  if (high <= 1.001 / 255 && high > 0)
    throw new InputError(`${what}: ${range.replace(', not in [0, 1]', '')}; they were divided by 255 twice`);
}

/**
 * The classifier gives finite logits, no probabilities, and expects no normalisation from outside.
 * @param x [N, H, W, C] in [0, 1]
 * @throws InputError naming the mistake
 */
export async function checkClassifier(
  name: string,
  classifier: Classifier,
  x: Tensor,
  labels: readonly number[],
): Promise<void> {
  const { classes } = classifier;
  const wrong = labels.find((label) => label >= classes);
  if (wrong !== undefined)
    throw new InputError(
      `${name}: has ${classes} classes, the data set has a label ${wrong}; choose a classifier of this data set`,
    );
  const output = x.device.scope(() => classifier.logits(x));
  const logits = await output.floats();
  output.dispose();
  const bad = logits.findIndex((z) => !Number.isFinite(z));
  if (bad >= 0)
    throw new InputError(
      `${name}: logit ${bad % classes} of image ${Math.floor(bad / classes)} is ${logits[bad]}; the checkpoint may be damaged or of another network`,
    );
  if (labels.every((_, i) => isDistribution(logits.subarray(i * classes, (i + 1) * classes))))
    throw new InputError(
      `${name}: its outputs are probabilities; attacks need logits, take the softmax off the model`,
    );
  const right = (found: readonly number[]) => found.map((label, i) => label === labels[i]);
  const given = right(await classify(classifier, x));
  const channels = x.shape[3] as number;
  const constants = channels === 3 ? [cifar10Normalisation, imageNetNormalisation] : [gray];
  for (const { mean, std } of constants) {
    const normalised = x.device.scope(() => {
      const { device } = x;
      return div(sub(x, device.tensor(mean)), device.tensor(std));
    });
    const other = right(await classify(classifier, normalised));
    normalised.dispose();
    const { onlyFirst, onlySecond, p } = mcnemar(given, other);
    if (onlySecond > onlyFirst && p < 0.001) {
      const share = (list: readonly boolean[]) => `${list.filter(Boolean).length} of ${list.length}`;
      throw new InputError(
        `${name}: right on ${share(given)} images as they are and on ${share(other)} after (x − mean)/std: the model lacks its normalisation; put it inside, by --net-config or a network that has it`,
      );
    }
  }
}

/** Fashion-MNIST's usual constants. */
const gray = { mean: [0.286], std: [0.353] };
