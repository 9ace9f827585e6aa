/**
 * Uniform noise, the weakest attack there is (Carlini et al. 2019, "On evaluating adversarial robustness", Sec. 4.11: try
 * at least 10,000 random points): points drawn uniformly from the ball, cut to [0, 1], of which that of least margin is
 * kept. Whatever a gradient attack leaves and noise breaks, says that the gradients mislead.
 *
 * In its traces and results the loss is −margin of the best point so far; the trace has an entry every 100 points.
 */
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import { copy } from './ascent.ts';
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
import { dropFooled, eachRemaining } from './clean.ts';
import { randomPoint } from './pgd.ts';
import judgeSource from './square-judge.wgsl';
import keepSource from './square-keep.wgsl';
import { checkEot, type Eot, once, Query, type Target } from './target.ts';

export interface NoiseOptions {
  readonly norm: Norm;
  readonly eps: number;
  /** Points an image; default 10,000. */
  readonly points?: number;
  readonly eot?: Eot;
  readonly seed?: number;
}

/** Points between two looks at what is left. */
const interval = 100;

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
    const { device, size } = job;
    const slots = new Slots(job);
    const query = new Query(target, slots, { loss: null, goal: 'untargeted', eot, seed });
    const best = device.keep(device.zeros(slots.x.shape));
    const state = device.keep(device.zeros([slots.batch, 2]));
    // The first point is always taken; the counter says which one is.
    const [first, later] = [0, 1].map((v) => device.keep(device.tensor([v], [1], 'u32'))) as [Tensor, Tensor];
    const judge = (counter: Tensor) => {
      device.run(
        kernel('square-judge', judgeSource),
        { logits: query.logits, labels: slots.labels, counter, state },
        { rows: slots.batch, classes: target.classes },
        linearGrid(slots.batch, 16),
      );
      device.run(
        kernel('square-keep', keepSource),
        { x: slots.x, state, best },
        { count: best.size, size },
        linearGrid(best.size),
      );
    };
    try {
      await dropFooled(job, slots, query, target.classes);
      const all = { runs: 1, steps: points, onStep: hooks.onStep };
      await eachRemaining(job, slots, query, all, async (images, _, onIteration) => {
        for (let p = 0; p < points; p++) {
          randomPoint(slots, norm, eps, seed, p);
          await query.forwardPass();
          judge(p === 0 ? first : later);
          if ((p + 1) % interval === 0 || p + 1 === points) {
            const margins = await state.floats();
            const done = images.map((i, b) => {
              const margin = margins[2 * b] as number;
              const history = job.trace[i] as { loss: number[]; hit: number[] };
              if ((history.hit.at(-1) ?? 0) === 0) {
                history.loss.push(-margin);
                history.hit.push(margin <= 0 ? 1 : 0);
              }
              return margin <= 0;
            });
            onIteration(p + 1);
            if (done.every(Boolean)) break;
          } else if (p % 10 === 9) {
            await device.sync();
          }
        }
        // Judged once more: with margin 0 the first of two equal classes decides.
        copy(best, slots.x);
        await query.forwardPass();
        const [found, margins, hits] = await Promise.all([best.floats(), state.floats(), query.hit.floats()]);
        images.forEach((i, b) => {
          job.keep(i, found, b, -(margins[2 * b] as number));
          job.success[i] = (hits[b] as number) > 0;
        });
      });
      return job.result(query.passes);
    } finally {
      for (const part of [query, slots, best, state, first, later]) part.dispose();
    }
  }
}
