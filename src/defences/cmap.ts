/**
 * CMAP as a defended classifier: K latents an image, Algorithm 1, hard vote (Eq. 14).
 *
 * Surfaces: `classifier`, the bare one, and `surrogate`, the paper's stand-in of one consistency step, which are
 * transfer attacks; `bpda` and `unroll`, through the whole optimisation, and `bpda-short` and `unroll-short` through its
 * first ten iterations, which are adaptive. An attack takes one by name, with options where wanted,
 * `pgd@unroll-short:k=2:votes=easiest`; without a name the bare classifier, because the others cost K·T times as much: such
 * numbers are tagged `transfer`.
 */
import { type Reader, readCount, readOneOf, readOptions, readPositive } from '../attacks/spec.ts';
import { publishedAttackSigma, surrogate } from '../attacks/surrogate.ts';
import { ThroughCmap, type ThroughCmapOptions } from '../attacks/through-cmap.ts';
import type { CmapOptions } from '../cmap/options.ts';
import { purify } from '../cmap/purify.ts';
import { type Classifier, classifyEach, countVotes } from '../cmap/vote.ts';
import type { Tensor } from '../engine/tensor.ts';
import { type ConsistencyModel, publishedSigmas } from '../nets/consistency.ts';
import { type AttackSurface, bareSurface, checkFit, type Defence } from './defence.ts';

/** Iterations of the short horizons. */
const SHORT = 10;

/** What can be set of a surface through the optimisation. */
const options = {
  k: readCount,
  iterations: readCount,
  votes: readOneOf('probabilities', 'logits', 'easiest'),
  temperature: readPositive,
  warm: readOneOf('no', 'yes'),
};
const ofIdentity = { ...options, backward: readOneOf('identity', 'surrogate'), sigma: readPositive };
const ofUnroll = {
  ...options,
  last: readCount,
  preconditioner: readOneOf('exact', 'frozen'),
  /** 0 leaves |d| as it is. */
  huber: ((text, key) => (text === '0' ? 0 : readPositive(text, key))) as Reader<number>,
  clip: readOneOf('through', 'exact'),
};

const ofSurrogate = { sigma: readPositive, backward: readOneOf('exact', 'identity') };

interface ThroughSettings {
  readonly k: number;
  readonly iterations: number;
  readonly votes: NonNullable<ThroughCmapOptions['votes']>;
  readonly temperature: number;
  readonly warm: 'no' | 'yes';
  readonly backward?: 'identity' | 'surrogate';
  readonly sigma?: number;
  readonly last?: number;
  readonly preconditioner?: 'exact' | 'frozen';
  readonly huber?: number;
  readonly clip?: 'through' | 'exact';
}

function surfacesOf(
  model: ConsistencyModel,
  classifier: Classifier,
  cmap: CmapOptions,
  made: ThroughCmap[],
): Record<string, AttackSurface> {
  const through = (name: string, settings: ThroughSettings): AttackSurface => {
    const { k, iterations, votes, temperature, warm, backward, sigma } = settings;
    const { last, preconditioner, huber, clip } = settings;
    const unrolled = backward === undefined;
    const way = unrolled
      ? `differentiated through ${last ? `the last ${last}` : 'every'} Adam step${last ? 's' : ''}`
      : backward === 'identity'
        ? 'the optimisation taken for the identity backward (BPDA)'
        : `the optimisation taken for one consistency step at sigma ${sigma?.toPrecision(4)} backward (BPDA)`;
    const target = new ThroughCmap(model, classifier, {
      cmap: { ...cmap, k, iterations },
      backward: backward ?? 'unroll',
      sigma,
      votes,
      temperature,
      warmStart: warm === 'yes',
      unroll: { last, preconditioner, smoothing: { huber, straightThrough: clip !== 'exact' } },
    });
    made.push(target);
    return {
      target,
      knowledge: 'adaptive',
      // The objective that is differentiated is smoothed; the identity is none at all.
      exact: false,
      // Of the pair of a forward and a backward pass; the unrolled way back asks two more gradients an update.
      cost: k * (iterations + (unrolled ? 2 * Math.min(last ?? iterations, iterations) : 0)),
      summary: `the mean probability of the ${k} images after ${iterations} iterations, ${way}`,
      settings: { ...settings },
      with: (texts) =>
        through(name, {
          ...settings,
          ...readOptions(texts, unrolled ? ofUnroll : ofIdentity, `surface ${name}`),
        }),
    };
  };
  const stepAt = (settings: { sigma: number; backward: 'exact' | 'identity' }): AttackSurface => {
    const { sigma, backward } = settings;
    const exact = backward === 'exact';
    return {
      target: surrogate(model, classifier, sigma, backward),
      knowledge: 'transfer',
      exact,
      summary: `one consistency step at sigma ${sigma.toPrecision(4)} before the classifier, ${exact ? '' : 'taken for the identity backward (BPDA), '}as in the published attacks`,
      settings,
      with: (texts) => stepAt({ ...settings, ...readOptions(texts, ofSurrogate, 'surface surrogate') }),
    };
  };
  const common = { k: cmap.k, votes: 'probabilities', temperature: 1, warm: 'no' } as const;
  const identity = { ...common, backward: 'identity', sigma: publishedAttackSigma } as const;
  const unrolled = { ...common, preconditioner: 'exact', huber: 0.1, clip: 'through' } as const;
  const { iterations } = cmap;
  const few = Math.min(SHORT, iterations);
  return {
    classifier: bareSurface(classifier, 'transfer'),
    surrogate: stepAt({ sigma: publishedAttackSigma, backward: 'exact' }),
    bpda: through('bpda', { ...identity, iterations }),
    unroll: through('unroll', { ...unrolled, iterations }),
    'bpda-short': through('bpda-short', { ...identity, iterations: few }),
    'unroll-short': through('unroll-short', { ...unrolled, iterations: few }),
  };
}

/** @throws InputError when model and classifier do not take the same images */
export function cmapDefence(
  model: ConsistencyModel,
  classifier: Classifier & { readonly imageShape?: readonly number[] },
  options: CmapOptions,
): Defence {
  checkFit(model.imageShape, classifier);
  const { max: sigma } = model.sigmas;
  const { seed: _, distance, ...values } = options;
  const own = distance ? { ...values, distance: distance.name || 'own' } : values;
  // Beside the paper's values, where it is another than theirs.
  const settings = sigma === publishedSigmas.max ? own : { ...own, sigma };
  const loops: ThroughCmap[] = [];
  return {
    name: 'cmap',
    classes: classifier.classes,
    randomised: true,
    settings,
    classifier,
    surfaces: surfacesOf(model, classifier, options, loops),
    surface: 'classifier',
    generator: { model, cmap: options },
    passes: 2 * options.k * options.iterations + options.k,
    dispose: () => {
      for (const loop of loops) loop.dispose();
    },
    async judge(x, { seed, imageIds, looks, onProgress }) {
      const seen: { iteration: number; labels: number[][] }[] = [];
      const hooks = {
        imageIds,
        ...(looks
          ? {
              looks: {
                every: Math.ceil(options.iterations / looks),
                at: async (iteration: number, images: Tensor) => {
                  seen.push({ iteration, labels: await classifyEach(classifier, images) });
                },
              },
            }
          : {}),
        onCompile: (done: number, of: number) => onProgress?.(0, `compile ${done}/${of}`),
        onIteration: (done: number, of: number) => onProgress?.(done / of, 'purify'),
      };
      const { images, latents, trace } = await purify(model, x, { ...options, seed }, hooks);
      latents.dispose();
      const labels = await classifyEach(classifier, images);
      if (looks) seen.push({ iteration: options.iterations, labels });
      return {
        votes: labels.map((each) => countVotes(each, classifier.classes)),
        purified: images,
        purification: labels.map((each, i) => ({
          labels: each,
          trace: trace[i] ?? [],
          looks: seen.map((look) => ({ iteration: look.iteration, labels: look.labels[i] as number[] })),
        })),
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
