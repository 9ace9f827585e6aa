/**
 * Consistency models. A step draws two levels r < t of one trajectory and moves f(x_t, t) towards the target's f⁻(x_r, r):
 *
 *   ct    training (Song et al. 2023, Eqs. 7 and 8 of the paper): x_t = y + tn, x_r = y + rn; N(k) levels, target rate μ(k)
 *   cd    distillation (Eq. 6): x_r by one Euler or Heun step of a denoiser's probability-flow ODE from x_t
 *   ict   improved training (Song and Dhariwal 2024): doubling N(k), log-normal levels, weight 1/(t − r), pseudo-Huber, μ = 0
 *   ect   easy tuning (Geng et al. 2024) from a denoiser: continuous t, r(t) drawn near over the stages, weight 1/(t − r), μ = 0
 *
 * With μ = 0 the target is the network itself without a gradient. Both passes have the same noise and the same dropout.
 */
import { noGrad } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import { purposes } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { add, div, mul, sub } from '../kernels/broadcast.ts';
import { abs, affine, sqrt, square } from '../kernels/elementwise.ts';
import { mean, sum } from '../kernels/reduce.ts';
import { karrasLevels, sigmasAfter } from '../nets/consistency.ts';
import type { Lpips } from '../nets/lpips.ts';
import type { Parameters } from '../nets/parameters.ts';
import type { UNet } from '../nets/unet.ts';
import type { BatchSource } from './batches.ts';
import { uniforms } from './draws.ts';
import { type GenerativeOptions, type Given, Levels, logNormal, NoisyBatch } from './levels.ts';
import { type Recipe, type Rows, rowsOf } from './recipe.ts';
import { consistencyLevels, doublingLevels, ectLower, logNormalPairs, targetRate } from './schedules.ts';
import type { ParameterStore } from './store.ts';

export interface ConsistencyTraining extends GenerativeOptions {
  readonly method: 'ct' | 'cd' | 'ict' | 'ect';
  /** K of the schedules. */
  readonly steps: number;
  /** Of a pair: mean squared or mean absolute difference, or √(‖d‖² + c²) − c. */
  readonly distance: 'l2' | 'l1' | 'huber' | 'lpips';
  /** c of `huber`; default .00054 √(H·W·C). */
  readonly huber?: number;
  /** Levels at the start and at the end; `cd` has s1 all the time. */
  readonly s0: number;
  readonly s1: number;
  /** Target's rate: μ₀ of `ct`; of `cd` the rate itself. */
  readonly mu0: number;
  /** Of `ict` and `ect`: ln σ ~ N(mean, std²). */
  readonly logMean: number;
  readonly logStd: number;
  /** Of `ect`: q, and the steps of a stage. */
  readonly q: number;
  readonly stageSteps: number;
  /** Of `cd`. */
  readonly solver: 'euler' | 'heun';
}

export interface Teacher {
  readonly unet: UNet;
  readonly parameters: Parameters;
}

/** The levels of a batch, and the weight of each image's distance. */
export interface Pairs {
  readonly upper: number[];
  /** 0: the target is the clean image. */
  readonly lower: number[];
  readonly weight: number[];
}

interface Solver {
  /** The teacher at t and at r. */
  readonly at: readonly [Levels, Levels];
  readonly parameters: Parameters;
}

/** Stands for r = 0 in what the network computes and nobody reads. */
const tiny = 1e-4;

export class ConsistencyRecipe implements Recipe {
  readonly #batch: NoisyBatch;
  readonly #upper: Levels;
  readonly #lower: Levels;
  readonly #weight: Tensor;
  /** 1 where the target is the clean image, [B, 1, 1, 1]; and 1 − that. */
  readonly #clean: readonly [Tensor, Tensor] | null;
  readonly #teacher: Solver | null = null;
  #grid: readonly number[] = [];
  #odds: readonly number[] = [];

  /**
   * @param target number of the target's average in the store; null where the target is the network itself
   * @param given noise and pairs to take instead of random ones
   * @throws InputError for a method without its teacher, a distance without its weights
   */
  constructor(
    readonly device: Device,
    readonly unet: UNet,
    readonly store: ParameterStore,
    readonly source: BatchSource,
    readonly options: ConsistencyTraining,
    readonly target: number | null,
    teacher?: Teacher,
    readonly given?: Given & { pairs(step: number): Pairs },
    /** For distance lpips. */
    readonly lpips?: Lpips,
  ) {
    if ((options.method === 'cd') !== (teacher !== undefined))
      throw new InputError(teacher ? `${options.method} has no teacher; only cd does` : 'cd wants a teacher');
    if ((options.distance === 'lpips') !== (lpips !== undefined))
      throw new InputError('distance lpips and the weights of LPIPS belong together');
    const { batch, sigmas, method } = options;
    this.#batch = new NoisyBatch(device, unet, options, given);
    const levels = (net: UNet, p: Parameters, min: number) =>
      new Levels(device, net, p, batch, { ...sigmas, min });
    // ECT starts from a denoiser and keeps its scalings; the others hold f(x, σ_min) = x.
    const { min } = sigmasAfter(method, sigmas);
    this.#upper = levels(unet, store.parameters, min);
    this.#lower = levels(unet, store.parameters, min);
    const column = () => device.keep(device.zeros([batch, 1, 1, 1]));
    this.#weight = device.keep(device.zeros([batch]));
    this.#clean = method === 'ect' ? [column(), column()] : null;
    if (teacher) {
      const { unet: net, parameters } = teacher;
      this.#teacher = { at: [levels(net, parameters, 0), levels(net, parameters, 0)], parameters };
    }
  }

  get batch(): number {
    return this.options.batch;
  }

  /** How many levels the schedule has at this step. */
  #count(step: number): number {
    const { method, steps, s0, s1 } = this.options;
    if (method === 'ct') return consistencyLevels(step, steps, s0, s1);
    return method === 'ict' ? doublingLevels(step, steps, s0, s1) : s1;
  }

  #pairs(step: number): Pairs {
    const { options } = this;
    const { method, seed, batch, sigmas, logMean, logStd, q, stageSteps } = options;
    if (method === 'ect') {
      const stage = Math.floor(step / stageSteps);
      const upper = logNormal(options, purposes.trainingLevel, step, logMean, logStd);
      const lower = upper.map((t) => ectLower(t, q, stage));
      return { upper, lower, weight: upper.map((t, i) => 1 / (t - (lower[i] as number))) };
    }
    const count = this.#count(step);
    if (this.#grid.length !== count) {
      this.#grid = karrasLevels(count, sigmas.min, sigmas.max);
      this.#odds = logNormalPairs(this.#grid, logMean, logStd);
    }
    const [upper, lower]: [number[], number[]] = [[], []];
    for (let row = 0; row < batch; row++) {
      const u = uniforms({ seed, purpose: purposes.trainingLevel, step, row }).next().value;
      let n = Math.floor(u * (count - 1));
      if (method === 'ict') {
        n = 0;
        for (let at = this.#odds[0] as number; at <= u && n < count - 2; at += this.#odds[n] as number) n++;
      }
      lower.push(this.#grid[n] as number);
      upper.push(this.#grid[n + 1] as number);
    }
    const weight = upper.map((t, i) => (method === 'ict' ? 1 / (t - (lower[i] as number)) : 1));
    return { upper, lower, weight };
  }

  load(step: number): void {
    const { upper, lower, weight } = this.given?.pairs(step) ?? this.#pairs(step);
    this.#batch.write(step, this.source.at(step).images);
    const below = lower.map((r) => Math.max(r, this.#clean ? tiny : 0));
    this.#upper.write(upper);
    this.#lower.write(below);
    this.#weight.write(weight);
    if (this.#clean) {
      this.#clean[0].write(lower.map((r) => (r === 0 ? 1 : 0)));
      this.#clean[1].write(lower.map((r) => (r === 0 ? 0 : 1)));
    }
    this.#teacher?.at[0].write(upper);
    this.#teacher?.at[1].write(below);
  }

  loss(p: Parameters, rows: Rows): Tensor {
    const { store, target } = this;
    const of = (column: Tensor) => rowsOf(column, rows);
    const [y, t, r] = [of(this.#batch.images), this.#upper, this.#lower];
    const noise = this.#batch.noise(rows);
    const x = add(y, mul(noise, of(t.sigma)));
    const f = t.denoise(p, x, rows, this.#batch.forwardOptions(rows));
    const wanted = noGrad(() => {
      const below = this.#teacher ? this.#solve(this.#teacher, x, rows) : add(y, mul(noise, of(r.sigma)));
      const slow = target === null ? store.parameters : store.average(target);
      const g = r.denoise(slow, below, rows, this.#batch.forwardOptions(rows));
      return this.#clean ? add(mul(g, of(this.#clean[1])), mul(y, of(this.#clean[0]))) : g;
    });
    return mul(this.#distance(f, wanted), of(this.#weight));
  }

  /** One step of dx/dσ = (x − D(x, σ))/σ from t to r: Euler's, or Heun's. */
  #solve({ at, parameters }: Solver, x: Tensor, rows: Rows): Tensor {
    const sigma = (level: Levels) => rowsOf(level.sigma, rows);
    const slope = (level: Levels, z: Tensor) => div(sub(z, level.denoise(parameters, z, rows)), sigma(level));
    const width = sub(sigma(at[1]), sigma(at[0]));
    const first = slope(at[0], x);
    const euler = add(x, mul(first, width));
    if (this.options.solver === 'euler') return euler;
    return add(x, mul(affine(add(first, slope(at[1], euler)), 0.5), width));
  }

  /** @param f, g [B, H, W, C] in [−1, 1] or a little outside */
  #distance(f: Tensor, g: Tensor): Tensor {
    const { distance, huber } = this.options;
    if (this.lpips) return this.lpips.distance(f, g);
    const d = sub(f, g);
    const axes = [1, 2, 3];
    if (distance === 'l1') return mean(abs(d), axes);
    if (distance === 'l2') return mean(square(d), axes);
    const size = d.size / (d.shape[0] as number);
    const c = huber ?? 0.00054 * Math.sqrt(size);
    // The root has no slope at 0: c = 0 becomes 1e-6.
    return affine(sqrt(affine(sum(square(d), axes), 1, Math.max(c, 1e-6) ** 2)), 1, -c);
  }

  targetRate(step: number): number {
    const { method, s0, mu0 } = this.options;
    if (this.target === null) return 0;
    return method === 'ct' ? targetRate(this.#count(step), s0, mu0) : mu0;
  }

  describe(step: number): Record<string, number> {
    const { method, stageSteps } = this.options;
    if (method === 'ect') return { stage: Math.floor(step / stageSteps) };
    return { levels: this.#count(step), ...(this.target === null ? {} : { mu: this.targetRate(step) }) };
  }

  dispose(): void {
    const parts = [this.#batch, this.#upper, this.#lower, this.#weight, ...(this.#clean ?? [])];
    for (const part of [...parts, ...(this.#teacher?.at ?? [])]) part.dispose();
  }
}
