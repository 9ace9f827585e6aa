/**
 * PGD whose perturbation is constant on blocks of f × f pixels: δ = U w, w a coarse image. A purifier that keeps the
 * low frequencies of its input must keep such a perturbation (the idea is that of the low-frequency attack of DiffBreak,
 * arXiv 2411.16598, which optimises filters; here it is bounded by eps).
 *
 *   L∞   w ← clip(w + α sign(Uᵀ∇L), −eps, eps)
 *   L2   w ← P(w + α Uᵀ∇L / ‖U Uᵀ∇L‖₂), P the scaling of ‖U w‖₂ = f ‖w‖₂ to eps
 *
 * and x = clip(clean + U w, 0, 1); the best iterate is kept. Begins at w = 0.
 */
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, div } from '../kernels/broadcast.ts';
import { affine, clamp, relu, sign, sqrt, square } from '../kernels/elementwise.ts';
import { averagePool } from '../kernels/pool.ts';
import { sum } from '../kernels/reduce.ts';
import { nearestUpsample } from '../kernels/resample.ts';
import { Ascent, copy, keepBest } from './ascent.ts';
import {
  type Attack,
  type AttackHooks,
  type AttackResult,
  checkBall,
  checkCount,
  checkSeed,
  defaultStepSize,
  Job,
  l2Safety,
  type Norm,
  Slots,
} from './attack.ts';
import { attackLoss, type LossName } from './losses.ts';
import { checkEot, type Eot, once, Query } from './query.ts';
import type { Target } from './target.ts';

export interface LowFrequencyOptions {
  /** Linf or L2. */
  readonly norm: Norm;
  readonly eps: number;
  /** f; the image's height and width are multiples of it. Default 4. */
  readonly block?: number;
  /** Default 40. */
  readonly steps?: number;
  /** α; default 2.5 eps / steps. */
  readonly stepSize?: number;
  /** Default cross-entropy. */
  readonly loss?: LossName;
  readonly eot?: Eot;
  readonly seed?: number;
}

/** Side of a block. */
export const usualBlock = 4;

/** @throws InputError for images that are not made of whole blocks */
export function checkBlocks(block: number, height: number, width: number): void {
  if (height % block > 0 || width % block > 0)
    throw new InputError(
      `low-frequency: images of ${height}x${width} are not made of blocks of ${block}x${block}; give a block that divides both`,
    );
}

export class LowFrequency implements Attack {
  readonly name = 'low-frequency';
  readonly norm: Norm;
  readonly eps: number;
  readonly options: Required<LowFrequencyOptions>;

  constructor(options: LowFrequencyOptions) {
    const { steps = 40, norm, eps } = options;
    this.options = {
      block: usualBlock,
      steps,
      stepSize: defaultStepSize(norm, eps, steps),
      loss: 'ce',
      eot: once,
      seed: 0,
      ...options,
    };
    checkBall(norm, eps);
    if (norm === 'L1')
      throw new InputError('low-frequency: blocks are far from sparse; give --norm Linf or L2, not L1');
    checkCount('steps', steps);
    checkCount('block', this.options.block);
    if (!(this.options.stepSize > 0))
      throw new InputError(`low-frequency: the step size must be positive, got ${this.options.stepSize}`);
    checkEot(this.options.eot);
    checkSeed(this.options.seed);
    this.norm = norm;
    this.eps = eps;
  }

  async run(
    target: Target,
    x: Tensor,
    labels: readonly number[],
    hooks: AttackHooks = {},
  ): Promise<AttackResult> {
    const { name, norm, eps } = this;
    const { block, steps, stepSize, eot, seed } = this.options;
    const loss = attackLoss(this.options.loss, false, target.classes);
    const job = await Job.open(name, target, x, labels, this, hooks);
    const [h, w, c] = job.imageShape as [number, number, number];
    checkBlocks(block, h, w);
    const { device } = job;
    const slots = new Slots(job);
    const query = new Query(target, slots, { loss, goal: 'untargeted', eot, seed });
    const coarse = device.keep(device.zeros([slots.batch, h / block, w / block, c]));
    const length = (t: Tensor) => sqrt(affine(sum(square(t), [1, 2, 3], { keepDims: true }), 1, 1e-30));
    const move = () => {
      // Uᵀ is the sum over a block: f² times its mean, and neither rule minds a factor.
      const g = averagePool(query.gradient, block);
      if (norm === 'Linf') {
        copy(clamp(add(coarse, affine(sign(g), stepSize)), -eps, eps), coarse);
      } else {
        const next = add(coarse, affine(div(g, length(g)), stepSize / block));
        const radius = (eps * l2Safety) / block;
        // times radius / max(‖w‖, radius)
        const longest = affine(relu(affine(length(next), 1, -radius)), 1, radius);
        copy(affine(div(next, longest), radius), coarse);
      }
      copy(clamp(add(slots.clean, nearestUpsample(coarse, block)), 0, 1), slots.x);
      if (norm === 'Linf') slots.clampToBall();
    };
    const ascent = new Ascent(slots, query, { norm, eps, steps, stepSize, move });
    try {
      const groups = job.batches(job.all);
      for (const [at, images] of groups.entries()) {
        slots.load(images);
        query.restart();
        coarse.write(new Float32Array(coarse.size));
        const end = await ascent.run((t) => hooks.onStep?.(at * steps + t, groups.length * steps));
        keepBest(job, images, end);
      }
      return job.result(query.passes);
    } finally {
      for (const part of [ascent, query, slots, coarse]) part.dispose();
    }
  }
}
