/**
 * The loop that PGD and APGD share: ask for the loss's gradient, judge, keep the best, move, project. All state of an
 * image (step size, momentum, best loss, counters) lies on the device; an iteration replays three Programs and reads
 * nothing.
 *
 * At iteration t = 0..steps the target is asked at x_t. Then, with `checkpoints[t]` > 0, APGD's rule (Croce & Hein
 * 2020, Sec. 3.1): over the w = checkpoints[t] iterations since the last checkpoint, if the loss rose in at most ρw of
 * them, or neither the step size nor the best loss changed since, the step is halved and x goes back to the best point.
 * L1 has a rule of its own (ascent-sparsity.wgsl).
 */
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Program } from '../engine/program.ts';
import { advance } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { div } from '../kernels/broadcast.ts';
import { abs, affine, relu } from '../kernels/elementwise.ts';
import { sum } from '../kernels/reduce.ts';
import judgeSource from './ascent-judge.wgsl';
import keepSource from './ascent-keep.wgsl';
import l1MoveSource from './ascent-move-l1.wgsl';
import l2Source from './ascent-move-l2.wgsl';
import linfSource from './ascent-move-linf.wgsl';
import sparsitySource from './ascent-sparsity.wgsl';
import { type Job, l1Radius, l2Safety, type Norm, type Slots, threadsOf } from './attack.ts';
import { l1Source } from './l1.ts';
import assignSource from './mix.wgsl';
import type { Query } from './query.ts';
import reduceSource from './reduce.wgsl';

export interface AscentOptions {
  readonly norm: Norm;
  readonly eps: number;
  readonly steps: number;
  /** The first step size. */
  readonly stepSize: number;
  /** x_{t+1} = P(x_t + a (z − x_t) + (1 − a)(x_t − x_{t−1})), z the projected step; default 1, plain gradient ascent. */
  readonly a?: number;
  /** Window of the checkpoint after evaluation t, or 0; [steps + 1]. Default none. */
  readonly checkpoints?: readonly number[];
  /** Means nothing without checkpoints. */
  readonly rho?: number;
  /**
   * L1 alone: the share of the pixels that every step moves, or APGD's rule, by which the checkpoints adapt that share,
   * beginning with 0.2 (`fresh`) or with what the start has moved (`start`). `a` and `rho` mean nothing for L1.
   */
  readonly sparsity?: number | 'fresh' | 'start';
  /** Another step than the norm's own: moves the slots' x by the query's gradient. Recorded once. */
  readonly move?: () => void;
}

/** Floats of an image's state on the device; ascent-judge.wgsl names them. */
const fields = 9;

/** What a batch ended with; rows are slots. */
export interface AscentEnd {
  readonly last: Float32Array;
  /** Of the highest loss. */
  readonly best: Float32Array;
  /** The latest of those most often hit. */
  readonly hit: Float32Array;
  readonly bestLoss: number[];
  readonly bestHit: number[];
  /** At `hit`. */
  readonly hitLoss: number[];
  readonly anyHit: number[];
  readonly stepSize: number[];
}

export class Ascent {
  readonly #best: Tensor;
  readonly #bestGradient: Tensor;
  readonly #hit: Tensor;
  readonly #old: Tensor;
  readonly #state: Tensor;
  readonly #trace: Tensor;
  readonly #counter: Tensor;
  readonly #sparsity: Tensor;
  readonly #judge: Program<unknown>;
  readonly #move: Program<unknown>;

  constructor(
    readonly slots: Slots,
    readonly query: Query,
    readonly options: AscentOptions,
  ) {
    const { job, batch: rows, x } = slots;
    const { device } = job;
    const { steps, eps, norm, rho = 0, a = 1, sparsity = 0 } = options;
    const make = (shape: readonly number[]) => device.keep(device.zeros(shape));
    [this.#best, this.#bestGradient, this.#hit, this.#old] = [x.shape, x.shape, x.shape, x.shape].map(
      make,
    ) as [Tensor, Tensor, Tensor, Tensor];
    this.#state = make([rows, fields]);
    this.#trace = make([steps + 1, rows, 2]);
    this.#counter = device.keep(device.zeros([1], 'u32'));
    const { checkpoints } = options;
    const none = () => device.zeros([steps + 1], 'u32');
    const windows = device.keep(checkpoints ? device.tensor([...checkpoints], [steps + 1], 'u32') : none());
    const never = device.keep(none());
    const share = typeof sparsity === 'number' ? sparsity : 0;
    this.#sparsity = device.keep(device.tensor(new Float32Array(2 * rows).fill(share), [rows, 2]));
    const threads = { THREADS: threadsOf(device) };
    const { gradient, loss, hit } = query;
    this.#judge = device.record('attack judge', () => {
      device.run(
        kernel('ascent-judge', judgeSource),
        {
          loss,
          hit,
          windows: norm === 'L1' ? never : windows,
          counter: this.#counter,
          state: this.#state,
          trace: this.#trace,
        },
        { rows, step: options.stepSize, rho },
        linearGrid(rows, 16),
      );
      device.run(
        kernel('ascent-keep', keepSource),
        {
          x,
          gradient,
          best: this.#best,
          best_gradient: this.#bestGradient,
          hit: this.#hit,
          state: this.#state,
        },
        { count: x.size, size: job.size },
        linearGrid(x.size),
      );
      if (norm === 'L1' && typeof sparsity !== 'number') {
        device.run(
          kernel('ascent-sparsity', reduceSource + sparsitySource, {
            ...threads,
            FRESH: sparsity === 'fresh',
          }),
          {
            x,
            best: this.#best,
            clean: slots.clean,
            windows,
            counter: this.#counter,
            state: this.#state,
            sparsity: this.#sparsity,
          },
          { rows, size: job.size, eps },
          linearGrid(rows, 1),
        );
      }
    });
    windows.dispose();
    never.dispose();
    this.#move = device.record('attack move', () => {
      const shared = {
        x,
        old: this.#old,
        gradient,
        best_gradient: this.#bestGradient,
        state: this.#state,
        counter: this.#counter,
      };
      if (options.move) {
        options.move();
      } else if (norm === 'L1') {
        const { counter, old: delta, ...most } = shared;
        device.run(
          kernel('ascent-move-l1', l1Source + l1MoveSource, threads),
          { ...most, delta, clean: slots.clean, sparsity: this.#sparsity },
          { rows, size: job.size, radius: l1Radius(eps, job.size) },
          linearGrid(rows, 1),
        );
      } else if (norm === 'Linf') {
        device.run(
          kernel('ascent-move-linf', linfSource),
          { ...shared, low: slots.low, high: slots.high },
          { count: x.size, size: job.size, a },
          linearGrid(x.size),
        );
      } else {
        device.run(
          kernel('ascent-move-l2', reduceSource + l2Source, threads),
          { ...shared, clean: slots.clean },
          { rows, size: job.size, a, eps: eps * l2Safety },
          linearGrid(rows, 1),
        );
      }
      advance(this.#counter);
    });
  }

  /** x = the point of highest loss of the last run. */
  takeBest(): void {
    copy(this.#best, this.slots.x);
  }

  /**
   * From the slots' x. @param outside the ball is larger than the attack's: hits do not count
   * @returns the points found; the trace is added to the Job's
   */
  async run(onStep?: (done: number) => void, outside = false): Promise<AscentEnd> {
    const { slots, query, options } = this;
    const { job, x } = slots;
    const { device } = job;
    this.#counter.write([0]);
    await Promise.all([this.#judge.prepare(), this.#move.prepare()]);
    copy(x, this.#old);
    for (let t = 0; t <= options.steps; t++) {
      await query.gradientPass();
      if (t === 0) await this.#noteZeroGradients();
      this.#judge.run();
      if (t < options.steps) {
        this.#move.run();
        await device.sync();
        onStep?.(t + 1);
      }
    }
    const [last, best, hit, state, trace] = (await Promise.all(
      [x, this.#best, this.#hit, this.#state, this.#trace].map((t) => t.floats()),
    )) as [Float32Array, Float32Array, Float32Array, Float32Array, Float32Array];
    const column = (k: number) => slots.images.map((_, b) => state[b * fields + k] as number);
    const hitLoss = slots.images.map((i, b) => {
      const history = job.trace[i] as { loss: number[]; hit: number[] };
      let [most, atMost] = [0, Number.NaN];
      for (let t = 0; t <= options.steps; t++) {
        const at = 2 * (t * slots.batch + b);
        const [loss, share] = [trace[at] as number, trace[at + 1] as number];
        history.loss.push(loss);
        history.hit.push(outside ? 0 : share);
        if (share > 0 && share >= most) [most, atMost] = [share, loss];
      }
      return atMost;
    });
    return {
      last,
      best,
      hit,
      bestLoss: column(0),
      bestHit: column(1),
      hitLoss,
      anyHit: column(2),
      stepSize: column(5),
    };
  }

  /** An image whose gradient is zero at the start does not move: the attack says nothing about it. */
  async #noteZeroGradients(): Promise<void> {
    const { job, images } = this.slots;
    const sums = job.device.scope(() => sum(abs(this.query.gradient), [1, 2, 3]));
    const lengths = await sums.floats();
    sums.dispose();
    images.forEach((i, b) => {
      if (lengths[b] === 0) job.zeroGradients.add(i);
    });
  }

  dispose(): void {
    this.#judge.dispose();
    this.#move.dispose();
    for (const t of [
      this.#best,
      this.#bestGradient,
      this.#hit,
      this.#old,
      this.#state,
      this.#trace,
      this.#counter,
      this.#sparsity,
    ])
      t.dispose();
  }
}

/** y = x, y a tensor that lives on. */
export function copy(x: Tensor, y: Tensor): void {
  x.device.run(
    kernel('attack-mix', assignSource),
    { x, y },
    { count: y.size, keep: 0, weight: 1 },
    linearGrid(y.size),
  );
}

/** δ · radius / max(‖δ‖, radius): onto the L2 ball, differentiably. @param length ‖δ‖ of each image, to broadcast */
export const shortened = (delta: Tensor, length: Tensor, radius: number): Tensor =>
  div(affine(delta, radius), affine(relu(affine(length, 1, -radius)), 1, radius));

/** Keeps the best of a run for every image of the slots: a hit before none, then the highest loss. */
export function keepBest(job: Job, images: readonly number[], end: AscentEnd): void {
  images.forEach((i, b) => {
    const hit = (end.anyHit[b] as number) >= 0.5;
    const apart = hit && (end.bestHit[b] as number) < 0.5;
    const loss = (apart ? end.hitLoss : end.bestLoss)[b] as number;
    if (hit === job.success[i] ? loss <= (job.loss[i] as number) : !hit) return;
    job.keep(i, apart ? end.hit : end.best, b, loss);
    job.success[i] = hit;
  });
}
