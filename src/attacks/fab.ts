/**
 * Fast adaptive boundary attack (Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive
 * boundary attack", Algorithm 1): steps onto the linearised decision boundary, both from the current point and from the
 * image, biased towards the image, look for the smallest perturbation. `fab` linearises all boundaries of the true class
 * and takes the nearest; `fab-t` only that to one class, the 2nd, 3rd, … most likely of the clean image in turn.
 *
 * Published constants: 100 iterations, α_max 0.1, overshoot η 1.05, backward step β 0.9, 9 target classes. Only restarts
 * after the first begin at a random point.
 *
 * The attack minimises ‖δ‖ and knows no eps; it succeeds where the smallest perturbation found lies within eps. Where it
 * is larger, `adversarial` is that perturbation shrunk to eps: a best attempt. In its traces and results the loss is
 * −‖δ‖ of the smallest perturbation so far (−Infinity before any).
 */
import { InputError } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Program } from '../engine/program.ts';
import { advance, randomNormal, randomUniform } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, div } from '../kernels/broadcast.ts';
import { abs, affine, clamp, sqrt, square } from '../kernels/elementwise.ts';
import { max, sum } from '../kernels/reduce.ts';
import { reshape } from '../kernels/shape.ts';
import { copy } from './ascent.ts';
import {
  type Attack,
  type AttackHooks,
  type AttackResult,
  checkBall,
  checkCount,
  checkSeed,
  Job,
  l1Radius,
  lengthOf,
  type Norm,
  Slots,
  streams,
  threadsOf,
} from './attack.ts';
import { dropFooled, eachRemaining } from './clean.ts';
import acceptSource from './fab-accept.wgsl';
import nearestSource from './fab-nearest.wgsl';
import projectSource from './fab-project.wgsl';
import { attackLoss } from './losses.ts';
import { Query } from './query.ts';
import reduceSource from './reduce.wgsl';
import type { Target } from './target.ts';

export interface FabOptions {
  readonly norm: Norm;
  readonly eps: number;
  readonly targeted: boolean;
  /** Default 100. */
  readonly steps?: number;
  /** Default 1. */
  readonly restarts?: number;
  /** Default 9. */
  readonly targetClasses?: number;
  /** Largest bias towards the image; default 0.1. */
  readonly alphaMax?: number;
  /** Overshoot beyond the linearised boundary; default 1.05. */
  readonly eta?: number;
  /** Share of the perturbation kept after a success; default 0.9. */
  readonly beta?: number;
  readonly seed?: number;
}

/** ‖δ‖ before anything adversarial was found. */
const none = 1e10;

export class Fab implements Attack {
  readonly name: string;
  readonly norm: Norm;
  readonly eps: number;
  readonly options: Required<FabOptions>;

  constructor(options: FabOptions) {
    this.options = {
      steps: 100,
      restarts: 1,
      targetClasses: 9,
      alphaMax: 0.1,
      eta: 1.05,
      beta: 0.9,
      seed: 0,
      ...options,
    };
    const { norm, eps, targeted, steps, restarts, targetClasses, alphaMax, eta, beta, seed } = this.options;
    checkBall(norm, eps);
    checkCount('steps', steps);
    checkCount('restarts', restarts);
    checkCount('target classes', targetClasses);
    for (const [name, value, most] of [
      ['alphaMax', alphaMax, 1],
      ['beta', beta, 1],
      ['eta', eta, 2],
    ] as const) {
      if (!(value > 0 && value <= most))
        throw new InputError(`fab: ${name} must be in (0, ${most}], got ${value}`);
    }
    checkSeed(seed);
    this.name = targeted ? 'fab-t' : 'fab';
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
    const { steps, restarts, seed, targeted } = options;
    const loss = attackLoss('difference', true, target.classes);
    const classes = targeted ? Math.min(options.targetClasses, target.classes - 1) : 1;
    const job = await Job.open(name, target, x, labels, this, hooks);
    const slots = new Slots(job);
    const query = new Query(target, slots, { loss, goal: 'untargeted', seed });
    const search = new Search(slots, query, norm, options, target.classes);
    const smallest = new Array<number>(job.count).fill(none);
    try {
      const ranked = await dropFooled(job, slots, query);
      const all = { runs: classes * restarts, steps, onStep: hooks.onStep };
      await eachRemaining(job, slots, query, all, async (images, run, onIteration) => {
        if (run % restarts > 0) randomStart(slots, norm, eps, seed, run);
        const wanted = targeted
          ? slots.each(ranked.map((order) => order[Math.floor(run / restarts)] as number))
          : null;
        const { found, norms } = await search.run(wanted, onIteration);
        images.forEach((i, b) => {
          const length = norms[b] as number;
          if (length >= (smallest[i] as number)) return;
          smallest[i] = length;
          job.success[i] = this.#keep(job, i, found, b);
        });
      });
      return job.result(query.passes);
    } finally {
      for (const part of [search, query, slots]) part.dispose();
    }
  }

  /** Keeps a perturbation, shrunk to eps where it is larger. @returns whether it was not. Lengths in double. */
  #keep(job: Job, i: number, found: Float32Array, b: number): boolean {
    const { size } = job;
    const clean = job.x.subarray(i * size, (i + 1) * size);
    const point = found.subarray(b * size, (b + 1) * size);
    const length = lengthOf(this.norm, point, clean);
    job.keep(i, found, b, -length);
    if (length <= this.eps) return true;
    const out = job.adversarial.subarray(i * size, (i + 1) * size);
    const shrink = ((this.norm === 'L1' ? l1Radius(this.eps, size) : this.eps) / length) * (1 - 1e-6);
    for (let k = 0; k < size; k++) {
      const moved = (clean[k] as number) + shrink * ((point[k] as number) - (clean[k] as number));
      const [low, high] = this.norm === 'Linf' ? [job.low[i * size + k], job.high[i * size + k]] : [0, 1];
      out[k] = Math.min(Math.max(moved, low as number), high as number);
    }
    return false;
  }
}

/** The iterations of one batch, on the device. */
class Search {
  readonly #found: Tensor;
  readonly #norms: Tensor;
  readonly #normal: Tensor;
  readonly #gap: Tensor;
  readonly #distance: Tensor;
  readonly #trace: Tensor;
  readonly #counter: Tensor;
  readonly #project: Program<unknown>;
  readonly #accept: Program<unknown>;
  readonly #nearest: Program<unknown>;

  constructor(
    readonly slots: Slots,
    readonly query: Query,
    norm: Norm,
    readonly options: Required<FabOptions>,
    readonly classes: number,
  ) {
    const { job, batch: rows, x, clean } = slots;
    const { device, size } = job;
    const make = (shape: readonly number[]) => device.keep(device.zeros(shape));
    this.#found = make(x.shape);
    this.#norms = make([rows]);
    this.#normal = make(x.shape);
    this.#gap = make([rows]);
    this.#distance = make([rows]);
    this.#trace = make([options.steps, rows]);
    this.#counter = device.keep(device.zeros([1], 'u32'));
    const { loss, gradient, hit } = query;
    const { targeted, alphaMax, eta, beta } = options;
    const constants = { THREADS: threadsOf(device), NORM: { Linf: 0, L1: 1, L2: 2 }[norm] };
    const grid = linearGrid(rows, 1);
    // Targeted: the boundary is the query's answer. Untargeted: the nearest of those of all classes.
    const [normal, gap] = targeted ? [gradient, loss] : [this.#normal, this.#gap];
    this.#nearest = device.record('fab nearest', () => {
      device.run(
        kernel('fab-nearest', reduceSource + nearestSource, constants),
        {
          gradient,
          loss,
          labels: slots.labels,
          targets: slots.targets,
          normal: this.#normal,
          gap: this.#gap,
          distance: this.#distance,
        },
        { rows, size },
        grid,
      );
    });
    this.#project = device.record('fab project', () => {
      device.run(
        kernel('fab-project', reduceSource + projectSource, constants),
        { x, clean, normal, gap },
        { rows, size, alpha_max: alphaMax, eta },
        grid,
      );
    });
    this.#accept = device.record('fab accept', () => {
      device.run(
        kernel('fab-accept', reduceSource + acceptSource, constants),
        {
          x,
          clean,
          hit,
          counter: this.#counter,
          found: this.#found,
          norms: this.#norms,
          trace: this.#trace,
        },
        { rows, size, beta },
        grid,
      );
      advance(this.#counter);
    });
  }

  /** @param wanted the class whose boundary is sought, an entry a slot; null for all classes */
  async run(wanted: readonly number[] | null, onStep: (done: number) => void) {
    const { slots, query, options, classes } = this;
    const { job } = slots;
    const { device } = job;
    this.#counter.write([0]);
    this.#norms.write(new Float32Array(slots.batch).fill(none));
    copy(slots.clean, this.#found);
    if (wanted) slots.targets.write(wanted);
    for (let t = 0; t < options.steps; t++) {
      if (wanted) {
        await query.gradientPass();
      } else {
        this.#distance.write(new Float32Array(slots.batch).fill(3e38));
        for (let c = 0; c < classes; c++) {
          slots.targets.write(new Uint32Array(slots.batch).fill(c));
          await query.gradientPass();
          this.#nearest.run();
        }
      }
      this.#project.run();
      await query.forwardPass();
      this.#accept.run();
      await device.sync();
      onStep(t + 1);
    }
    const [found, norms, trace] = (await Promise.all(
      [this.#found, this.#norms, this.#trace].map((t) => t.floats()),
    )) as [Float32Array, Float32Array, Float32Array];
    slots.images.forEach((i, b) => {
      const history = job.trace[i] as { loss: number[]; hit: number[] };
      for (let t = 0; t < options.steps; t++) {
        const length = trace[t * slots.batch + b] as number;
        history.loss.push(length < none ? -length : Number.NEGATIVE_INFINITY);
        history.hit.push(length <= options.eps ? 1 : 0);
      }
    });
    return { found, norms };
  }

  dispose(): void {
    for (const program of [this.#project, this.#accept, this.#nearest]) program.dispose();
    for (const t of [
      this.#found,
      this.#norms,
      this.#normal,
      this.#gap,
      this.#distance,
      this.#trace,
      this.#counter,
    ])
      t.dispose();
  }
}

/** x = clean + (eps/2)·t/‖t‖. */
function randomStart(slots: Slots, norm: Norm, eps: number, seed: number, run: number): void {
  const { job, clean, ids: rows, x, batch } = slots;
  const { device } = job;
  device.scope(() => {
    const random = { seed, purpose: streams.fabStart, step: run, rows };
    const t =
      norm === 'Linf'
        ? affine(randomUniform(device, x.shape, random), 2, -1)
        : randomNormal(device, x.shape, random);
    const flat = reshape(t, [batch, job.size]);
    const lengths = {
      Linf: () => max(abs(flat), 1, { keepDims: true }),
      L2: () => sqrt(sum(square(flat), [1], { keepDims: true })),
      L1: () => sum(abs(flat), [1], { keepDims: true }),
    };
    const length = lengths[norm]();
    copy(clamp(add(clean, reshape(affine(div(flat, length), eps / 2), x.shape)), 0, 1), x);
  });
}
