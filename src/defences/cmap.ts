/**
 * CMAP as a defended classifier: K latents an image, Algorithm 1, hard vote (Eq. 14).
 *
 * Attacks that go through the optimisation plug in as surfaces: pass them to `cmapDefence`, the strongest as `surface`.
 * Without one the attacker sees the bare classifier only, and every number is tagged `transfer`.
 */
import type { CmapOptions } from '../cmap/options.ts';
import { purify } from '../cmap/purify.ts';
import { type Classifier, classifyByVote } from '../cmap/vote.ts';
import { InputError } from '../engine/errors.ts';
import type { ConsistencyModel } from '../nets/consistency.ts';
import { type AttackSurface, bareSurface, type Defence } from './defence.ts';

export interface CmapDefenceOptions {
  /** Surfaces beside `classifier`, by name. */
  readonly surfaces?: Readonly<Record<string, AttackSurface>>;
  /** Which of them attacks take by default; else `classifier`. */
  readonly surface?: string;
}

/** @throws InputError when model and classifier do not take the same images */
export function cmapDefence(
  model: ConsistencyModel,
  classifier: Classifier & { readonly imageShape?: readonly number[] },
  options: CmapOptions,
  { surfaces = {}, surface = 'classifier' }: CmapDefenceOptions = {},
): Defence {
  const { imageShape } = classifier;
  if (imageShape && String(imageShape) !== String(model.imageShape))
    throw new InputError(
      `the generator makes images of [${model.imageShape}], the classifier takes [${imageShape}]; choose a pair that fits`,
    );
  const { seed: _, ...settings } = options;
  return {
    name: 'cmap',
    classes: classifier.classes,
    randomised: true,
    settings,
    classifier,
    surfaces: { classifier: bareSurface(classifier, 'transfer'), ...surfaces },
    surface,
    passes: 2 * options.k * options.iterations + options.k,
    async judge(x, { seed, imageIds }) {
      const { images, latents } = await purify(model, x, { ...options, seed }, { imageIds });
      latents.dispose();
      return { votes: await classifyByVote(classifier, images), purified: images };
    },
    async estimate(x) {
      const few = async (iterations: number) => {
        const began = performance.now();
        const { images, latents } = await purify(model, x, { ...options, iterations });
        for (const t of [images, latents]) t.dispose();
        return (performance.now() - began) / 1000;
      };
      await few(1); // compiles
      return (options.iterations / 3) * (await few(3));
    },
  };
}
