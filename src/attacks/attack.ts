/**
 * What attacks have in common: their shape, the check of their options, and how images travel through the device
 * in batches of one fixed size, so that a Program is recorded once whatever the number of images.
 */
import { checkPixels } from '../cmap/pixels.ts';
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import { sizeOf, type Tensor } from '../engine/tensor.ts';
import clampSource from './clamp-ball.wgsl';
import type { Target } from './target.ts';

export const norms = ['Linf', 'L2', 'L1'] as const;
export type Norm = (typeof norms)[number];

export interface AttackHooks {
  /** Global number of each image: its random numbers depend on it, not on the batch. Default 0, 1, 2, … */
  readonly imageIds?: readonly number[];
  /** Wanted class of each image, for a targeted attack. */
  readonly targets?: readonly number[];
  /** Images on the device at a time; the last batch is padded to it. Default: all, at most 64. */
  readonly batch?: number;
  /**
   * Images that the target misreads as they are: left alone, as published, or attacked like the others. Where the target
   * is random, or not all of the defence, they are no successes yet. Default left.
   */
  readonly misread?: 'left' | 'attacked';
  /** Starting points [N, H, W, C] instead of the attack's own, where it has any. */
  readonly start?: Tensor;
  /** Iterations done of the most there can be. */
  readonly onStep?: (done: number, total: number) => void;
}

/** One image's history, an entry an evaluation; restarts and target classes follow one another. */
export interface ImageTrace {
  /** The loss that the attack raises; for Square and FAB see there. */
  readonly loss: number[];
  /** Share of the draws of randomness in which the goal was met: 0 or 1 for a deterministic target. */
  readonly hit: number[];
}

export interface AttackResult {
  /**
   * [N, H, W, C] in [0, 1] and within eps: where the attack succeeded, an adversarial example; elsewhere the best
   * attempt. A success that can be improved (a higher loss later on) is.
   */
  readonly adversarial: Tensor;
  readonly success: boolean[];
  /** The attack's loss at `adversarial`. */
  readonly loss: number[];
  readonly trace: ImageTrace[];
  /** Evaluations of the target, summed over images. */
  readonly passes: { readonly forward: number; readonly backward: number };
  /** Numbers an attack wants to show: one line each, such as images whose gradient was zero. */
  readonly notes: string[];
}

export interface Attack {
  readonly name: string;
  readonly norm: Norm;
  /** Radius of the ball, in [0, 1] pixel units. */
  readonly eps: number;
  /**
   * @param x [N, H, W, C] in [0, 1]
   * @param labels true classes
   * @throws InputError for images outside [0, 1], wrong labels, or a target the attack cannot work on
   */
  run(target: Target, x: Tensor, labels: readonly number[], hooks?: AttackHooks): Promise<AttackResult>;
}

/** @throws InputError naming the norm or the radius, and the way out */
export function checkBall(norm: Norm, eps: number): void {
  if (!norms.includes(norm))
    throw new InputError(`norm "${norm}" is not known; there are ${norms.join(', ')}`);
  if (norm === 'Linf' && !(eps >= 0 && eps <= 1)) {
    throw new InputError(
      `eps must be in [0, 1] pixel units, got ${eps}${eps > 1 ? `; did you mean ${eps}/255?` : ''}`,
    );
  }
  if (!(eps >= 0 && Number.isFinite(eps)))
    throw new InputError(`eps must be a finite number from 0 in [0, 1] pixel units, got ${eps}`);
}

/**
 * A radius in pixel units of 0 to 255 instead of [0, 1] is longer than the diameter of all images.
 * @param size pixels and channels of an image
 * @throws InputError
 */
export function checkRadius(norm: Norm, eps: number, size: number): void {
  const most = { Linf: 1, L2: Math.sqrt(size), L1: size }[norm];
  if (eps > most)
    throw new InputError(
      `eps ${eps} in ${norm} is more than ${most.toPrecision(4)}, the distance of black from white in [0, 1] pixel units; did you mean ${eps}/255?`,
    );
}

/** No count of anything is larger: what is counted must fit buffers and patience. */
const mostCount = 2 ** 24;

/** @throws InputError unless `value` is an integer from `least` to 2^24 */
export function checkCount(name: string, value: number, least = 1): void {
  if (!Number.isInteger(value) || value < least || value > mostCount) {
    const kind = least === 1 ? 'a positive integer' : `an integer from ${least}`;
    throw new InputError(
      `${name} must be ${kind}${value > mostCount ? ` to ${mostCount}` : ''}, got ${value}`,
    );
  }
}

export function checkSeed(seed: number): void {
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new InputError(`seed must be an integer in [0, 2^53), got ${seed}`);
}

/** Streams of random numbers of this folder, beside `purposes` of engine/random.ts: (purpose, step) is never shared. */
export const streams = {
  apgdStart: 65,
  fabStart: 66,
  squareStart: 67,
  square: 68,
  pgdRadius: 69,
  surrogate: 70,
  attackLatents: 71,
  wantedClass: 72,
  unevenness: 73,
} as const;

/** Largest and smallest f32 that lie within eps of v, cut to [0, 1]: a clamp to them is exact in real numbers. */
function boundsOf(values: Float32Array, eps: number): { low: Float32Array; high: Float32Array } {
  const low = new Float32Array(values.length);
  const high = new Float32Array(values.length);
  const bits = new Uint32Array(low.buffer);
  const highBits = new Uint32Array(high.buffer);
  for (let i = 0; i < values.length; i++) {
    const v = values[i] as number;
    low[i] = Math.max(0, v - eps);
    if (low[i]! < v - eps) bits[i]!++; // rounded away from v: one step back; positive, so bits grow with the value
    high[i] = Math.min(1, v + eps);
    if (high[i]! > v + eps) highBits[i]!--;
  }
  return { low, high };
}

/**
 * L2 steps are projected to this share of eps: norms are summed in f32, and the result must lie within eps in real
 * numbers.
 */
export const l2Safety = 1 - 4e-6;

/**
 * The radius that L1 steps are projected to: less than eps by what sums in f32 lose, and by the rounding of each of
 * `size` pixels, at most 2⁻²⁵, so that the result lies within eps in real numbers.
 */
export const l1Radius = (eps: number, size: number) => Math.max(0, eps * (1 - 4e-6) - size * 2 ** -25);

/** ‖a − b‖ of rows of an image, in double precision. */
export function lengthOf(norm: Norm, a: ArrayLike<number>, b: ArrayLike<number>): number {
  let length = 0;
  for (let k = 0; k < a.length; k++) {
    const d = Math.abs((a[k] as number) - (b[k] as number));
    if (norm === 'Linf') length = Math.max(length, d);
    else length += norm === 'L1' ? d : d * d;
  }
  return norm === 'L2' ? Math.sqrt(length) : length;
}

/** The images of one call, on the host, and what became of them. */
export class Job {
  readonly device: Device;
  readonly count: number;
  readonly imageShape: readonly number[];
  readonly size: number;
  /** Images on the device at a time. */
  readonly batch: number;
  readonly misread: 'left' | 'attacked';
  readonly labels: readonly number[];
  readonly targets: readonly number[] | null;
  readonly ids: readonly number[];
  readonly start: Float32Array | null;
  readonly low: Float32Array;
  readonly high: Float32Array;
  readonly adversarial: Float32Array;
  readonly success: boolean[];
  readonly loss: number[];
  readonly trace: ImageTrace[];
  readonly notes: string[] = [];
  /** Images that a gradient attack could not move from some start. */
  readonly zeroGradients = new Set<number>();
  /** Whether the target was asked at the clean images, and gave numbers; else a trace begins there, or at a random point. */
  asked = false;

  private constructor(
    readonly name: string,
    target: Target,
    images: Tensor,
    readonly x: Float32Array,
    start: Float32Array | null,
    labels: readonly number[],
    ball: { norm: Norm; eps: number },
    hooks: AttackHooks,
  ) {
    this.device = images.device;
    const [n, ...image] = images.shape as [number, ...number[]];
    this.count = n;
    this.imageShape = image;
    this.size = sizeOf(image);
    checkRadius(ball.norm, ball.eps, this.size);
    const { imageIds, targets } = hooks;
    check(labels.length === n, () => `${name}: ${labels.length} labels for ${n} images`);
    checkClasses(name, 'label', labels, target.classes);
    if (targets) {
      check(targets.length === n, () => `${name}: ${targets.length} targets for ${n} images`);
      checkClasses(name, 'target', targets, target.classes);
    }
    check(!imageIds || imageIds.length === n, () => `${name}: ${imageIds?.length} image ids for ${n} images`);
    if (hooks.batch !== undefined) checkCount('batch', hooks.batch);
    this.batch = hooks.batch ?? Math.min(64, n);
    this.misread = hooks.misread ?? 'left';
    this.labels = labels;
    this.targets = targets ?? null;
    this.ids = imageIds ?? Array.from({ length: n }, (_, i) => i);
    this.start = start;
    checkPixels(name, this.x, n);
    ({ low: this.low, high: this.high } = boundsOf(this.x, ball.norm === 'Linf' ? ball.eps : 1));
    this.adversarial = this.x.slice();
    this.success = new Array<boolean>(n).fill(false);
    this.loss = new Array<number>(n).fill(Number.NEGATIVE_INFINITY);
    this.trace = Array.from({ length: n }, () => ({ loss: [], hit: [] }));
  }

  static async open(
    name: string,
    target: Target,
    x: Tensor,
    labels: readonly number[],
    ball: { norm: Norm; eps: number },
    hooks: AttackHooks,
  ): Promise<Job> {
    check(
      x.rank === 4 && x.size > 0,
      () => `${name}: x is [${x.shape}], wanted [N,H,W,C] of at least one image`,
    );
    const { start } = hooks;
    check(
      !start || String(start.shape) === String(x.shape),
      () => `${name}: start is [${start?.shape}], x is [${x.shape}]`,
    );
    const [host, from] = await Promise.all([x.floats(), start ? start.floats() : null]);
    return new Job(name, target, x, host, from, labels, ball, hooks);
  }

  /** All images, by their places. */
  get all(): number[] {
    return this.success.map((_, i) => i);
  }

  /** Images that were not fooled yet. */
  get remaining(): number[] {
    return this.all.filter((i) => !this.success[i]);
  }

  /** Groups of at most `batch` of the given images. */
  batches(images: readonly number[]): number[][] {
    const groups: number[][] = [];
    for (let i = 0; i < images.length; i += this.batch) groups.push(images.slice(i, i + this.batch));
    return groups;
  }

  /** Keeps row `row` of `from` as image `i`'s answer. */
  keep(i: number, from: Float32Array, row: number, loss: number): void {
    this.adversarial.set(from.subarray(row * this.size, (row + 1) * this.size), i * this.size);
    this.loss[i] = loss;
  }

  /** @throws InputError where the target gave NaN where the attack began */
  result(passes: { forward: number; backward: number }): AttackResult {
    const broken = this.asked ? -1 : this.trace.findIndex(({ loss }) => Number.isNaN(loss[0]));
    if (broken >= 0) throw notNumbers(this.name, this.ids[broken] as number);
    return {
      adversarial: this.device.keep(this.device.tensor(this.adversarial, [this.count, ...this.imageShape])),
      success: this.success,
      loss: this.loss,
      trace: this.trace,
      passes: { ...passes },
      notes: [
        ...this.notes,
        ...(this.zeroGradients.size > 0
          ? [`the gradient was zero at a start of ${this.zeroGradients.size} of ${this.count} images`]
          : []),
      ],
    };
  }
}

export const notNumbers = (name: string, id: number) =>
  new InputError(
    `${name}: the target gives NaN for image ${id} without an attack; look for NaN in its weights, or for a logarithm or quotient of 0`,
  );

function checkClasses(name: string, what: string, labels: readonly number[], classes: number): void {
  for (const label of labels) {
    check(
      Number.isInteger(label) && label >= 0 && label < classes,
      () => `${name}: ${what} ${label} is outside 0..${classes - 1}`,
    );
  }
}

/** The places on the device that a batch of a Job's images takes. */
export class Slots {
  readonly batch: number;
  /** [B, H, W, C]: clean images, bounds, and where the target is asked. */
  readonly clean: Tensor;
  readonly low: Tensor;
  readonly high: Tensor;
  readonly x: Tensor;
  /** u32 [B]. */
  readonly labels: Tensor;
  readonly targets: Tensor;
  readonly ids: Tensor;
  #images: readonly number[] = [];

  constructor(readonly job: Job) {
    const { device, batch } = job;
    this.batch = batch;
    const images = () => device.keep(device.empty([batch, ...job.imageShape]));
    const words = () => device.keep(device.zeros([batch], 'u32'));
    [this.clean, this.low, this.high, this.x] = [images(), images(), images(), images()];
    [this.labels, this.targets, this.ids] = [words(), words(), words()];
  }

  /** The images in the slots; slots after them repeat the last one. */
  get images(): readonly number[] {
    return this.#images;
  }

  /** Fills the slots; x starts at the clean images (or at the Job's starting points). */
  load(images: readonly number[]): void {
    const { job } = this;
    this.#images = images;
    this.clean.write(this.rows(job.x));
    this.low.write(this.rows(job.low));
    this.high.write(this.rows(job.high));
    this.x.write(this.rows(job.start ?? job.x));
    this.labels.write(this.each(job.labels));
    if (job.targets) this.targets.write(this.each(job.targets));
    this.ids.write(this.each(job.ids));
  }

  /** x cut to the L∞ ball. */
  clampToBall(): void {
    const { x, low, high } = this;
    x.device.run(kernel('clamp-ball', clampSource), { x, low, high }, { count: x.size }, linearGrid(x.size));
  }

  /** A slot's value of a list of an entry an image. */
  each(list: readonly number[]): number[] {
    return Array.from({ length: this.batch }, (_, b) => list[this.#image(b)] as number);
  }

  rows(from: Float32Array): Float32Array {
    const { size } = this.job;
    const out = new Float32Array(this.batch * size);
    for (let b = 0; b < this.batch; b++) {
      const i = this.#image(b);
      out.set(from.subarray(i * size, (i + 1) * size), b * size);
    }
    return out;
  }

  #image(slot: number): number {
    return this.#images[Math.min(slot, this.#images.length - 1)] as number;
  }

  dispose(): void {
    for (const t of [this.clean, this.low, this.high, this.x, this.labels, this.targets, this.ids])
      t.dispose();
  }
}

/** In L∞ the range of pixels. */
export const longestStep = (norm: Norm) => (norm === 'Linf' ? 1 : Number.POSITIVE_INFINITY);

/** 2.5 eps / steps (Madry et al. 2018): enough to reach the boundary from anywhere, and to move along it. */
export function defaultStepSize(norm: Norm, eps: number, steps: number): number {
  return eps > 0 ? Math.min((2.5 * eps) / steps, longestStep(norm)) : 1;
}

/** Threads of a kernel that reduces an image in one workgroup. */
export const threadsOf = (device: Device) => (device.capabilities.cpu ? 64 : 256);
