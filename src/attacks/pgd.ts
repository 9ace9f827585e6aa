/**
 * Projected gradient descent (Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks",
 * Sec. 2.1): x_{t+1} = P(x_t + α·u_t) with u = sign(∇L) for L∞ and ∇L/‖∇L‖₂ for L2, P the projection onto the ball
 * around the image and onto [0, 1], from a random point of the ball; restarts keep the best of each image. For L1, u is
 * the sign of the gradient at its largest 1 % of pixels over their count (Tramèr & Boneh 2019, "Adversarial training and
 * robustness for multiple perturbations", Sec. 3.1, whose q is 99 %) and P is exact (Croce & Hein 2021).
 *
 * Published defaults (L∞, CIFAR-10): eps 8/255, α 2/255, 20 steps in the paper's tables, cross-entropy.
 */

import type { Classifier } from '../cmap/vote.ts';
import { InputError } from '../engine/errors.ts';
import { purposes, randomNormal, randomUniform } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, div, mul, sub } from '../kernels/broadcast.ts';
import { abs, affine, clamp, exp, log, sign, sqrt, square } from '../kernels/elementwise.ts';
import { sum } from '../kernels/reduce.ts';
import { Ascent, type AscentEnd, copy, keepBest, shortened } from './ascent.ts';
import {
  type Attack,
  type AttackHooks,
  type AttackResult,
  checkBall,
  checkCount,
  checkSeed,
  Job,
  l2Safety,
  longestStep,
  type Norm,
  Slots,
  streams,
} from './attack.ts';
import { dropFooled } from './clean.ts';
import { projectL1 } from './l1.ts';
import { attackLoss, type Loss, type LossName } from './losses.ts';
import { checkEot, type Eot, Query } from './query.ts';
import type { Target } from './target.ts';

export interface PgdOptions {
  /** Radius of the ball, in [0, 1] pixel units: 8/255, not 8. */
  readonly eps: number;
  readonly steps: number;
  readonly stepSize: number;
  /** Start uniformly in the ball instead of at the image. */
  readonly randomStart: boolean;
  readonly seed: number;
  /** Default L∞. */
  readonly norm?: Norm;
  /** In L2: u = ∇L/‖∇L‖₂, or sign(∇L) as CMAP's released code, whose step is then √d times as long. Default gradient. */
  readonly direction?: 'gradient' | 'sign';
  /** By name, or a function of logits, true and wanted classes, made of differentiable operations. Default cross-entropy. */
  readonly loss?: LossName | Loss;
  /** Towards `hooks.targets` instead of away from the true classes. */
  readonly targeted?: boolean;
  /** Runs from different random points; default 1. */
  readonly restarts?: number;
  /** Return the last iterate, as published, or the best on the way. Default last. */
  readonly keep?: 'last' | 'best';
  readonly eot?: Eot;
}

/** @throws InputError naming the field, its value and its range */
export function checkPgdOptions(o: PgdOptions): void {
  const { norm = 'Linf', restarts = 1 } = o;
  checkBall(norm, o.eps);
  checkCount('steps', o.steps);
  if (!(o.stepSize > 0 && Number.isFinite(o.stepSize) && o.stepSize <= longestStep(norm)))
    throw new InputError(`the step size must be in (0, 1], got ${o.stepSize}`);
  if (o.direction && norm !== 'L2')
    throw new InputError(`direction ${o.direction} is for L2, this attack is for ${norm}`);
  checkCount('restarts', restarts);
  if (restarts > 1 && !o.randomStart)
    throw new InputError(`${restarts} restarts without a random start are all the same; set randomStart`);
  checkSeed(o.seed);
  if (o.eot) checkEot(o.eot);
}

export class Pgd implements Attack {
  readonly norm: Norm;
  readonly eps: number;

  constructor(
    readonly options: PgdOptions,
    readonly name = 'pgd',
  ) {
    checkPgdOptions(options);
    this.norm = options.norm ?? 'Linf';
    this.eps = options.eps;
  }

  async run(
    target: Target,
    x: Tensor,
    labels: readonly number[],
    hooks: AttackHooks = {},
  ): Promise<AttackResult> {
    const { name, norm, eps, options } = this;
    const { targeted = false, restarts = 1, steps, stepSize, seed, eot } = options;
    if (targeted && !hooks.targets)
      throw new InputError(`${name}: a targeted attack needs hooks.targets, a class an image`);
    const { loss: wanted = 'ce' } = options;
    const loss = typeof wanted === 'function' ? wanted : attackLoss(wanted, targeted, target.classes);
    const job = await Job.open(name, target, x, labels, this, hooks);
    const slots = new Slots(job);
    const query = new Query(target, slots, { loss, goal: targeted ? 'targeted' : 'untargeted', eot, seed });
    const move = options.direction === 'sign' ? { move: () => signMove(slots, query, eps, stepSize) } : {};
    const ascent = new Ascent(slots, query, { norm, eps, steps, stepSize, sparsity: 0.01, ...move });
    try {
      // A misread image is an answer already: a run takes its place where it fools too.
      const starts = options.randomStart || hooks.start !== undefined;
      if (options.keep === 'best' && starts && !targeted && job.misread === 'left')
        await dropFooled(job, slots, query);
      const batches = job.batches(job.all);
      let done = 0;
      for (let restart = 0; restart < restarts; restart++) {
        for (const images of batches) {
          slots.load(images);
          query.restart(restart);
          if (options.randomStart && !hooks.start) randomPoint(slots, norm, eps, seed, restart);
          const end = await ascent.run((t) => hooks.onStep?.(done + t, steps * restarts * batches.length));
          done += steps;
          if (options.keep === 'best') keepBest(job, images, end);
          else keepLast(job, images, end, steps);
        }
      }
      return job.result(query.passes);
    } finally {
      for (const part of [ascent, query, slots]) part.dispose();
    }
  }
}

/** x' = P(x + α sign ∇L) in L2: onto the ball, then onto [0, 1]. */
function signMove({ job, clean, x }: Slots, { gradient }: Query, eps: number, stepSize: number): void {
  job.device.scope(() => {
    const d = sub(add(x, affine(sign(gradient), stepSize)), clean);
    const length = sqrt(sum(square(d), [1, 2, 3], { keepDims: true }));
    copy(clamp(add(clean, shortened(d, length, eps * l2Safety)), 0, 1), x);
  });
}

/** The last iterate of a run, unless an earlier run's is better: fooled first, then the higher loss. */
function keepLast(job: Job, images: readonly number[], end: AscentEnd, steps: number): void {
  images.forEach((i, b) => {
    const trace = job.trace[i] as { loss: number[]; hit: number[] };
    const loss = trace.loss.at(-1) as number;
    const hit = (trace.hit.at(-1) as number) >= 0.5;
    const first = trace.loss.length === steps + 1;
    const better = hit === job.success[i] ? loss > (job.loss[i] as number) : hit;
    if (!first && !better) return;
    job.keep(i, end.last, b, loss);
    job.success[i] = hit;
  });
}

/** x = a uniformly random point of the ball around the clean images, cut to [0, 1]. */
export function randomPoint(slots: Slots, norm: Norm, eps: number, seed: number, restart: number): void {
  const { job, clean, ids: rows, x, batch } = slots;
  const { device, size } = job;
  device.scope(() => {
    if (norm === 'Linf') {
      const uniform = randomUniform(device, x.shape, {
        seed,
        purpose: purposes.attackStart,
        step: restart,
        rows,
      });
      copy(add(clean, affine(uniform, 2 * eps, -eps)), x);
      return;
    }
    // A random direction, at a radius of density r^(d−1): eps·u^(1/d). Normal numbers have a uniform direction in L2,
    // Laplacian ones in L1.
    const draw = { seed, purpose: purposes.attackStart, step: restart, rows };
    const norm1 = norm === 'L1';
    const direction = norm1
      ? laplacian(randomUniform(device, x.shape, draw))
      : randomNormal(device, x.shape, draw);
    const length = norm1
      ? sum(abs(direction), [1, 2, 3], { keepDims: true })
      : sqrt(sum(square(direction), [1, 2, 3], { keepDims: true }));
    const uniform = randomUniform(device, [batch, 1, 1, 1], {
      seed,
      purpose: streams.pgdRadius,
      step: restart,
      rows,
    });
    const radius = affine(exp(affine(log(affine(uniform, 1, 2 ** -25)), 1 / size)), eps * l2Safety);
    const point = add(clean, mul(direction, div(radius, length)));
    copy(norm1 ? point : clamp(point, 0, 1), x);
  });
  if (norm === 'Linf') slots.clampToBall();
  if (norm === 'L1') projectL1(slots, eps);
}

/** Numbers of density exp(−|t|)/2 from uniform ones in [0, 1). */
function laplacian(uniform: Tensor): Tensor {
  const t = affine(uniform, 2, -1);
  // In f32 1 + 2^-24 is 1: only a bound keeps the logarithm of 0 out.
  return mul(sign(t), affine(log(clamp(affine(abs(t), -1, 1), 2 ** -24, 1)), -1));
}

/**
 * Adversarial examples against `classifier`, untargeted, white-box: `Pgd.run` of one batch.
 * @param x [N, H, W, C] in [0, 1]
 * @param labels true classes
 * @returns [N, H, W, C] in [0, 1], within eps of x
 */
export async function pgd(
  classifier: Classifier,
  x: Tensor,
  labels: readonly number[],
  options: PgdOptions,
  hooks: AttackHooks = {},
): Promise<Tensor> {
  const result = await new Pgd(options).run(classifier, x, labels, { ...hooks, batch: x.shape[0] });
  return result.adversarial;
}
