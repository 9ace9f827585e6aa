/**
 * CMAP as a defended classifier: K latents an image, Algorithm 1, hard vote (Eq. 14).
 *
 * Surfaces: `classifier`, the bare one, and `surrogate`, the paper's stand-in of one consistency step, which are
 * transfer attacks; `bpda` and `unroll`, through the whole optimisation, and `bpda-short` and `unroll-short` through its
 * first ten iterations, which are adaptive. An attack takes one by name, `pgd@unroll-short`; without it the
 * bare classifier, because the others cost K·T times as much: such numbers are tagged `transfer`.
 */
import { surrogate } from '../attacks/surrogate.ts';
import { ThroughCmap } from '../attacks/through-cmap.ts';
import type { CmapOptions } from '../cmap/options.ts';
import { purify } from '../cmap/purify.ts';
import { type Classifier, classifyEach, countVotes } from '../cmap/vote.ts';
import type { ConsistencyModel } from '../nets/consistency.ts';
import { type AttackSurface, bareSurface, checkFit, type Defence } from './defence.ts';

/** Iterations of the short horizons. */
const SHORT = 10;

function surfacesOf(
  model: ConsistencyModel,
  classifier: Classifier,
  cmap: CmapOptions,
): Record<string, AttackSurface> {
  const through = (backward: 'identity' | 'unroll', iterations: number): AttackSurface => ({
    target: new ThroughCmap(model, classifier, { cmap: { ...cmap, iterations }, backward }),
    knowledge: 'adaptive',
    // The objective that is differentiated is smoothed; the identity is none at all.
    exact: false,
    // Of the pair of a forward and a backward pass; the unrolled way back asks two more gradients an update.
    cost: cmap.k * iterations * (backward === 'unroll' ? 3 : 1),
    summary: `the mean probability of the ${cmap.k} images after ${iterations} iterations, ${backward === 'identity' ? 'the optimisation taken for the identity backward (BPDA)' : 'differentiated through every Adam step'}`,
  });
  const few = Math.min(SHORT, cmap.iterations);
  return {
    classifier: bareSurface(classifier, 'transfer'),
    surrogate: {
      target: surrogate(model, classifier),
      knowledge: 'transfer',
      exact: true,
      summary: 'one consistency step at sigma 0.1395 before the classifier, as in the published attacks',
    },
    bpda: through('identity', cmap.iterations),
    unroll: through('unroll', cmap.iterations),
    'bpda-short': through('identity', few),
    'unroll-short': through('unroll', few),
  };
}

/** @throws InputError when model and classifier do not take the same images */
export function cmapDefence(
  model: ConsistencyModel,
  classifier: Classifier & { readonly imageShape?: readonly number[] },
  options: CmapOptions,
): Defence {
  checkFit(model.imageShape, classifier);
  const { seed: _, ...settings } = options;
  return {
    name: 'cmap',
    classes: classifier.classes,
    randomised: true,
    settings,
    classifier,
    surfaces: surfacesOf(model, classifier, options),
    surface: 'classifier',
    generator: { model, cmap: options },
    passes: 2 * options.k * options.iterations + options.k,
    async judge(x, { seed, imageIds, onProgress }) {
      const hooks = {
        imageIds,
        onCompile: (done: number, of: number) => onProgress?.(0, `compile ${done}/${of}`),
        onIteration: (done: number, of: number) => onProgress?.(done / of, 'purify'),
      };
      const { images, latents, trace } = await purify(model, x, { ...options, seed }, hooks);
      latents.dispose();
      const labels = await classifyEach(classifier, images);
      return {
        votes: labels.map((each) => countVotes(each, classifier.classes)),
        purified: images,
        purification: labels.map((each, i) => ({ labels: each, trace: trace[i] ?? [] })),
      };
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
