/**
 * Square Attack (Andriushchenko et al. 2020, "Square Attack: a query-efficient black-box adversarial attack via random
 * search", Algorithms 1 to 3): a square of random place and sign is proposed, and kept if the margin falls. It asks
 * for logits alone, so a masked gradient does not stop it.
 *
 * Published constants (as in AutoAttack): 5000 queries, p 0.8 halved at queries 10, 50, 200, 500, 1000, 2000, 4000, 6000
 * and 8000, one restart, margin loss. Its places and signs are drawn for each image by itself, where the published code
 * shares a place within a batch.
 *
 * In its traces and results the loss is −margin; the trace has an entry every 50 queries.
 */
import { InputError } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { keyOf } from '../engine/philox.ts';
import philoxSource from '../engine/philox.wgsl';
import type { Program } from '../engine/program.ts';
import type { Tensor } from '../engine/tensor.ts';
import {
  type Attack,
  type AttackHooks,
  type AttackResult,
  checkBall,
  checkCount,
  checkSeed,
  Job,
  l1Radius,
  l2Safety,
  lengthOf,
  type Norm,
  Slots,
  streams,
  threadsOf,
} from './attack.ts';
import { BestPoint } from './best-point.ts';
import { dropFooled, eachRemaining } from './clean.ts';
import { l1Source } from './l1.ts';
import { checkEot, type Eot, once, Query } from './query.ts';
import l2Source from './square-l2.wgsl';
import l2StartSource from './square-l2-start.wgsl';
import linfSource from './square-linf.wgsl';
import linfStartSource from './square-linf-start.wgsl';
import type { Target } from './target.ts';

export interface SquareOptions {
  readonly norm: Norm;
  readonly eps: number;
  /** Default 5000. */
  readonly queries?: number;
  /** Share of the image that the first squares cover; default 0.8. */
  readonly p?: number;
  /** Default 1. */
  readonly restarts?: number;
  /** Stretch the halving of p to the number of queries, as if they were 10,000; default false. */
  readonly rescale?: boolean;
  readonly eot?: Eot;
  readonly seed?: number;
}

/** The share p of query q. */
function squareShare(q: number, o: Pick<Required<SquareOptions>, 'p' | 'queries' | 'rescale'>): number {
  const at = o.rescale ? Math.floor((q / o.queries) * 10000) : q;
  const halvings = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000].filter((limit) => at > limit).length;
  return o.p / 2 ** halvings;
}

/** Side of query q's square in an image of h×w; odd and at least 3 for L2 and L1. */
export function squareSide(
  q: number,
  [h, w]: readonly [number, number],
  norm: Norm,
  o: Pick<Required<SquareOptions>, 'p' | 'queries' | 'rescale'>,
): number {
  const side = Math.round(Math.sqrt(squareShare(q, o) * h * w));
  const grown = norm === 'Linf' ? Math.max(side, 1) : Math.max(side, 3);
  return Math.min(norm !== 'Linf' && grown % 2 === 0 ? grown + 1 : grown, h, w);
}

/**
 * Two nested pyramids of opposite sign, one above the other, of unit norm: [s, s] (Algorithm 3's η). Their steps are
 * 1/k² high; for L1 1/k⁴, as in the published code.
 */
export function squareBump(s: number, norm: Norm = 'L2'): Float32Array {
  const power = norm === 'L1' ? 4 : 2;
  const half = (rows: number): number[] => {
    const out = new Array<number>(rows * s).fill(0);
    const [a, b] = [Math.floor(rows / 2), Math.floor(s / 2)];
    for (let k = 0; k < Math.max(a, b) + 1; k++) {
      // The rectangle of all places within k of the middle.
      for (let r = Math.max(a - k, 0); r < Math.min(a + k + 1, rows); r++) {
        for (let c = Math.max(b - k, 0); c < Math.min(b + k + 1, s); c++)
          out[r * s + c]! += 1 / (k + 1) ** power;
      }
    }
    return unit(out, norm);
  };
  const top = Math.floor(s / 2);
  return Float32Array.from(unit([...half(top), ...half(s - top).map((v) => -v)], norm));
}

function unit(v: number[], norm: Norm): number[] {
  const length = lengthOf(norm, v, new Float32Array(v.length));
  return v.map((x) => x / length);
}

export class Square implements Attack {
  readonly name = 'square';
  readonly norm: Norm;
  readonly eps: number;
  readonly options: Required<SquareOptions>;

  constructor(options: SquareOptions) {
    this.options = {
      queries: 5000,
      p: 0.8,
      restarts: 1,
      rescale: false,
      eot: once,
      seed: 0,
      ...options,
    };
    const { norm, eps, queries, p, restarts, eot, seed } = this.options;
    checkBall(norm, eps);
    checkCount('queries', queries);
    if (!(p > 0 && p <= 1)) throw new InputError(`square: p must be in (0, 1], got ${p}`);
    checkCount('restarts', restarts);
    checkEot(eot);
    checkSeed(seed);
    this.norm = norm;
    this.eps = eps;
  }

  async run(
    target: Target,
    x: Tensor,
    labels: readonly number[],
    hooks: AttackHooks = {},
  ): Promise<AttackResult> {
    const { name, norm, options } = this;
    const { queries, restarts, eot, seed } = options;
    const job = await Job.open(name, target, x, labels, this, hooks);
    const [h, , c] = job.imageShape as [number, number, number];
    if (norm !== 'Linf' && h < 5)
      throw new InputError(`square: ${norm} needs images of at least 5 rows, got ${h}`);
    if (c > 32) throw new InputError(`square: images have ${c} channels, at most 32 are supported`);
    const slots = new Slots(job);
    const query = new Query(target, slots, { loss: null, goal: 'untargeted', eot, seed });
    const search = new RandomSearch(slots, query, options);
    try {
      await dropFooled(job, slots, query);
      const all = { runs: restarts, steps: queries, onStep: hooks.onStep };
      await eachRemaining(job, slots, query, all, async (images, run, onIteration) => {
        const { best, margins, hits } = await search.run(run, onIteration);
        images.forEach((i, b) => {
          const loss = -(margins[b] as number);
          const hit = (hits[b] as number) >= 0.5;
          if (hit === job.success[i] ? loss <= (job.loss[i] as number) : !hit) return;
          job.keep(i, best, b, loss);
          job.success[i] = hit;
        });
      });
      return job.result(query.passes);
    } finally {
      for (const part of [search, query, slots]) part.dispose();
    }
  }
}

class RandomSearch {
  readonly #points: BestPoint;
  readonly #run: Tensor;
  readonly #start: Program<unknown>;
  readonly #propose: Program<unknown>;

  constructor(
    readonly slots: Slots,
    readonly query: Query,
    readonly options: Required<SquareOptions>,
  ) {
    const { job, batch: rows, x, clean, ids } = slots;
    const { device, size } = job;
    const { norm, queries, seed } = options;
    const [h, w, c] = job.imageShape as [number, number, number];
    const keep = <T extends Tensor>(t: T) => device.keep(t);
    this.#points = new BestPoint(slots, query);
    this.#run = keep(device.zeros([1], 'u32'));
    const { bumps, squares } = plan([h, w], options);
    const plans = keep(device.tensor(squares, [queries + 1, 2], 'u32'));
    const shapes = keep(device.tensor(bumps));
    const [low, high] = keyOf(seed);
    const params = {
      rows,
      size,
      height: h,
      width: w,
      channels: c,
      purpose: streams.square,
      seed_low: low,
      seed_high: high,
    };
    const start = { ...params, purpose: streams.squareStart };
    const constants = { THREADS: threadsOf(device), CHANNELS: c, L1: norm === 'L1' };
    const { best, counter } = this.#points;
    const step = { counter, run: this.#run };
    if (norm === 'Linf') {
      const { eps } = options;
      const grid = linearGrid(x.size);
      const bounds = { low: slots.low, high: slots.high };
      this.#start = device.record('square start', () => {
        device.run(
          kernel('square-linf-start', philoxSource + linfStartSource),
          { x, clean, ids, run: this.#run, ...bounds },
          { ...start, eps },
          grid,
        );
      });
      this.#propose = device.record('square propose', () => {
        device.run(
          kernel('square-linf', philoxSource + linfSource),
          { x, best, ids, plans, ...step, ...bounds },
          { ...params, eps, queries },
          grid,
        );
      });
    } else {
      const eps = options.eps * (norm === 'L2' ? l2Safety : 1);
      const radius = l1Radius(eps, size);
      const functions = philoxSource + l1Source;
      const grid = linearGrid(rows, 1);
      this.#start = device.record('square start', () => {
        device.run(
          kernel('square-l2-start', functions + l2StartSource, constants),
          { x, clean, ids, run: this.#run, plans, bumps: shapes },
          { ...start, eps, radius },
          grid,
        );
      });
      this.#propose = device.record('square propose', () => {
        device.run(
          kernel('square-l2', functions + l2Source, constants),
          { x, best, clean, ids, plans, bumps: shapes, ...step },
          { ...params, eps, radius, queries },
          grid,
        );
      });
    }
    plans.dispose();
    shapes.dispose();
  }

  /** The start is no query. */
  async run(run: number, onStep: (done: number) => void) {
    this.#run.write([run]);
    const propose = (p: number) => (p === 0 ? this.#start : this.#propose).run();
    const points = this.options.queries + 1;
    return this.#points.search({ points, free: 1, interval: 50 }, propose, onStep);
  }

  dispose(): void {
    for (const part of [this.#start, this.#propose, this.#run, this.#points]) part.dispose();
  }
}

/** [side, offset of its bump] for the start's tiles and each query, and the bumps one after another. */
function plan([h, w]: readonly [number, number], options: Required<SquareOptions>) {
  const bumps: number[] = [];
  const offsets = new Map<number, number>();
  const entry = (side: number): [number, number] => {
    if (options.norm === 'Linf') return [side, 0];
    let offset = offsets.get(side);
    if (offset === undefined) {
      offset = bumps.length;
      offsets.set(side, offset);
      bumps.push(...squareBump(side, options.norm));
    }
    return [side, offset];
  };
  const squares = entry(Math.floor(h / 5));
  for (let q = 0; q < options.queries; q++)
    squares.push(...entry(squareSide(q, [h, w], options.norm, options)));
  return { bumps: bumps.length > 0 ? bumps : [0], squares };
}
