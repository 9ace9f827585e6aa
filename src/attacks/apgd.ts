/**
 * Auto-PGD (Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
 * attacks", Algorithm 1 and Sec. 3): gradient ascent with momentum 0.75 whose step begins at 2·eps and is halved, with a
 * return to the best point, at checkpoints where progress was poor. APGD-CE and APGD-DLR are untargeted; APGD-T runs the
 * targeted DLR loss towards the 2nd, 3rd, … most likely class of the clean image.
 *
 * Published constants: 100 iterations, ρ 0.75, checkpoint windows 22, 19, 16, … down to 6 iterations (0.22, 0.03 and 0.06
 * of the iterations), 9 target classes. Each restart or class runs on the images that are still robust.
 *
 * In L1 (Croce & Hein 2021, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", Sec. 3) there is
 * no momentum: a step moves the pixels of largest gradient alone, how many adapts every 4 % of the iterations, and by
 * default 30, 30 and 40 % of the iterations run in balls of 3, 2 and 1 eps, each from the best point of the one before.
 */
import { InputError } from '../engine/errors.ts';
import { randomNormal, randomUniform } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, div } from '../kernels/broadcast.ts';
import { abs, affine, clamp, sqrt, square } from '../kernels/elementwise.ts';
import { max, sum } from '../kernels/reduce.ts';
import { reshape } from '../kernels/shape.ts';
import { Ascent, copy, keepBest } from './ascent.ts';
import {
  type Attack,
  type AttackHooks,
  type AttackResult,
  checkBall,
  checkCount,
  checkSeed,
  Job,
  l2Safety,
  type Norm,
  Slots,
  streams,
} from './attack.ts';
import { dropFooled, eachRemaining } from './clean.ts';
import { projectL1 } from './l1.ts';
import { attackLoss } from './losses.ts';
import { checkEot, type Eot, once, Query } from './query.ts';
import type { Target } from './target.ts';

export interface ApgdOptions {
  readonly norm: Norm;
  readonly eps: number;
  readonly loss: 'ce' | 'dlr' | 'targeted';
  /** Default 100. */
  readonly steps?: number;
  /** Default 1. */
  readonly restarts?: number;
  /** Classes that the targeted loss tries, from the second most likely on; default 9. */
  readonly targetClasses?: number;
  /** Share of rises below which a window's step is halved; default 0.75. */
  readonly rho?: number;
  /** L1 alone: begin in larger balls, as version standard of AutoAttack does; default true. */
  readonly largerRadii?: boolean;
  /** Default one draw. */
  readonly eot?: Eot;
  readonly seed?: number;
}

/** The window that ends after step t, or 0, for t = 0..steps; step 0 is the starting point. */
export function apgdCheckpoints(steps: number): number[] {
  const part = (share: number) => Math.max(Math.floor(share * steps), 1);
  const checkpoints = new Array<number>(steps + 1).fill(0);
  let window = part(0.22);
  for (let t = window; t <= steps; t += window) {
    checkpoints[t] = window;
    window = Math.max(window - part(0.03), part(0.06));
  }
  return checkpoints;
}

/** The balls of a run, one after another, as multiples of eps and iterations. */
function apgdPhases(norm: Norm, steps: number, largerRadii: boolean): { scale: number; steps: number }[] {
  if (norm !== 'L1' || !largerRadii || steps < 3) return [{ scale: 1, steps }];
  const early = Math.ceil(0.3 * steps);
  return [
    { scale: 3, steps: early },
    { scale: 2, steps: early },
    { scale: 1, steps: steps - 2 * early },
  ].filter((phase) => phase.steps > 0);
}

export class Apgd implements Attack {
  readonly name: string;
  readonly norm: Norm;
  readonly eps: number;
  readonly options: Required<ApgdOptions>;

  constructor(options: ApgdOptions) {
    this.options = {
      steps: 100,
      restarts: 1,
      targetClasses: 9,
      rho: 0.75,
      largerRadii: true,
      eot: once,
      seed: 0,
      ...options,
    };
    const { norm, eps, loss, steps, restarts, targetClasses, rho, eot, seed } = this.options;
    checkBall(norm, eps);
    if (!['ce', 'dlr', 'targeted'].includes(loss))
      throw new InputError(`apgd: loss "${loss}" is not known; there are ce, dlr, targeted`);
    checkCount('steps', steps);
    checkCount('restarts', restarts);
    checkCount('target classes', targetClasses);
    if (!(rho > 0 && rho <= 1)) throw new InputError(`apgd: rho must be in (0, 1], got ${rho}`);
    checkEot(eot);
    checkSeed(seed);
    this.name = loss === 'targeted' ? 'apgd-t' : `apgd-${loss}`;
    this.norm = norm;
    this.eps = eps;
  }

  async run(
    target: Target,
    x: Tensor,
    labels: readonly number[],
    hooks: AttackHooks = {},
  ): Promise<AttackResult> {
    const { name, norm, eps, options } = this;
    const { steps, restarts, rho, eot, seed } = options;
    const targeted = options.loss === 'targeted';
    const loss = targeted
      ? attackLoss('dlr', true, target.classes)
      : attackLoss(options.loss as 'ce' | 'dlr', false, target.classes);
    const classes = targeted ? Math.min(options.targetClasses, target.classes - 1) : 1;
    const job = await Job.open(name, target, x, labels, this, hooks);
    const slots = new Slots(job);
    const query = new Query(target, slots, { loss, goal: 'untargeted', eot, seed });
    const phases = apgdPhases(norm, steps, options.largerRadii).map((phase) => ({
      ...phase,
      ascent: new Ascent(slots, query, {
        norm,
        eps: phase.scale * eps,
        steps: phase.steps,
        stepSize: norm === 'L1' ? phase.scale * eps : 2 * eps,
        a: 0.75,
        checkpoints: norm === 'L1' ? l1Checkpoints(phase.steps) : apgdCheckpoints(phase.steps),
        rho,
        sparsity: options.largerRadii || hooks.start ? 'start' : 'fresh',
      }),
    }));
    try {
      const ranked = await dropFooled(job, slots, query);
      const all = { runs: classes * restarts, steps, onStep: hooks.onStep };
      await eachRemaining(job, slots, query, all, async (images, run, onIteration) => {
        if (targeted)
          slots.targets.write(slots.each(ranked.map((order) => order[Math.floor(run / restarts)] as number)));
        if (!hooks.start) randomStart(slots, norm, (phases[0]?.scale ?? 1) * eps, seed, run);
        let done = 0;
        for (const { ascent, scale, steps: own } of phases) {
          if (norm === 'L1') projectL1(slots, scale * eps);
          const end = await ascent.run((t) => onIteration(done + t), scale !== 1);
          done += own;
          if (scale === 1) keepBest(job, images, end);
          else ascent.takeBest();
        }
      });
      return job.result(query.passes);
    } finally {
      for (const part of [...phases.map((phase) => phase.ascent), query, slots]) part.dispose();
    }
  }
}

/** L1: every 4 % of the iterations. */
export function l1Checkpoints(steps: number): number[] {
  const window = Math.max(Math.floor(0.04 * steps), 1);
  return Array.from({ length: steps + 1 }, (_, t) => (t > 0 && t % window === 0 ? window : 0));
}

/**
 * x = clean + eps·t/‖t‖: L∞ of uniform numbers, L2 of normal ones. On the sphere, unlike PGD's start. L1: normal numbers,
 * projected to the ball.
 */
export function randomStart(slots: Slots, norm: Norm, eps: number, seed: number, run: number): void {
  const { job, clean, ids: rows, x } = slots;
  const { device } = job;
  device.scope(() => {
    const random = { seed, purpose: streams.apgdStart, step: run, rows };
    const t =
      norm === 'Linf'
        ? affine(randomUniform(device, x.shape, random), 2, -1)
        : randomNormal(device, x.shape, random);
    if (norm === 'L1') return copy(add(clean, t), x);
    const flat = reshape(t, [slots.batch, job.size]);
    const length =
      norm === 'Linf'
        ? max(abs(flat), 1, { keepDims: true })
        : sqrt(sum(square(flat), [1], { keepDims: true }));
    const radius = norm === 'Linf' ? eps : eps * l2Safety;
    const delta = reshape(affine(div(flat, affine(length, 1, 1e-12)), radius), x.shape);
    copy(clamp(add(clean, delta), 0, 1), x);
  });
  if (norm === 'Linf') slots.clampToBall();
  if (norm === 'L1') projectL1(slots, eps);
}
