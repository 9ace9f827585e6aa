/**
 * Uniform noise, the weakest attack there is (Carlini et al. 2019, "On evaluating adversarial robustness", Sec. 4.11: try
 * at least 10,000 random points): points drawn uniformly from the ball, cut to [0, 1], of which that of least margin is
 * kept. Whatever a gradient attack leaves and noise breaks, says that the gradients mislead.
 *
 * In its traces and results the loss is −margin of the best point so far; the trace has an entry every 100 points.
 */
import type { Tensor } from '../engine/tensor.ts';
import {
  type Attack,
  type AttackHooks,
  type AttackResult,
  checkBall,
  checkCount,
  checkSeed,
  Job,
  type Norm,
  Slots,
} from './attack.ts';
import { BestPoint } from './best-point.ts';
import { dropFooled, eachRemaining } from './clean.ts';
import { randomPoint } from './pgd.ts';
import { checkEot, type Eot, once, Query } from './query.ts';
import type { Target } from './target.ts';

export interface NoiseOptions {
  readonly norm: Norm;
  readonly eps: number;
  /** Points an image; default 10,000. */
  readonly points?: number;
  readonly eot?: Eot;
  readonly seed?: number;
}

export class Noise implements Attack {
  readonly name = 'noise';
  readonly norm: Norm;
  readonly eps: number;
  readonly options: Required<NoiseOptions>;

  constructor(options: NoiseOptions) {
    this.options = { points: 10000, eot: once, seed: 0, ...options };
    checkBall(options.norm, options.eps);
    checkCount('points', this.options.points);
    checkEot(this.options.eot);
    checkSeed(this.options.seed);
    this.norm = options.norm;
    this.eps = options.eps;
  }

  async run(
    target: Target,
    x: Tensor,
    labels: readonly number[],
    hooks: AttackHooks = {},
  ): Promise<AttackResult> {
    const { name, norm, eps } = this;
    const { points, eot, seed } = this.options;
    const job = await Job.open(name, target, x, labels, this, hooks);
    const slots = new Slots(job);
    const query = new Query(target, slots, { loss: null, goal: 'untargeted', eot, seed });
    const search = new BestPoint(slots, query);
    try {
      await dropFooled(job, slots, query);
      const all = { runs: 1, steps: points, onStep: hooks.onStep };
      await eachRemaining(job, slots, query, all, async (images, _, onIteration) => {
        const draw = (p: number) => randomPoint(slots, norm, eps, seed, p);
        const { best, margins, hits } = await search.search({ points, interval: 100 }, draw, onIteration);
        images.forEach((i, b) => {
          job.keep(i, best, b, -(margins[b] as number));
          job.success[i] = (hits[b] as number) >= 0.5;
        });
      });
      return job.result(query.passes);
    } finally {
      for (const part of [search, query, slots]) part.dispose();
    }
  }
}
