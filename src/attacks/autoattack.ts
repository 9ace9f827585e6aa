/**
 * AutoAttack (Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
 * parameter-free attacks"): attacks in a fixed order, each on the images that are still robust. An image is robust if
 * all of them fail. Versions and their constants are those of the published code (github.com/fra31/auto-attack):
 *
 *   standard  apgd-ce (1 restart), apgd-t (9 classes), fab-t (9 classes), square (5000 queries)
 *   plus      apgd-ce (5 restarts), apgd-dlr (5), fab (5), square, apgd-t (9 classes), fab-t (9 classes)
 *   rand      apgd-ce, apgd-dlr, each with 20 draws a gradient: for randomised targets
 *   custom    any attacks, by name (with the constants of `plus`) or as objects
 *
 * In L1 (Croce & Hein 2021) standard has five restarts of APGD-CE and five classes of APGD-T, both beginning in larger
 * balls; the other versions begin in the ball itself.
 *
 * With `hooks.batch` every attack runs in batches of that size, and an image's result is the same to the bit whatever
 * images come with it; without, batches shrink with the survivors (to a multiple of 8), which saves the padding.
 *
 * Unlike the published code, each attack's own best attempt is returned for every image it ran on, and for a survivor
 * the attempt of smallest margin, not the clean image. A trace is those of the attacks one after another, each in its own
 * loss.
 */
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { Apgd } from './apgd.ts';
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
import { Fab } from './fab.ts';
import { type Eot, once, Query } from './query.ts';
import { Square } from './square.ts';
import type { Target } from './target.ts';

export const autoAttackNames = ['apgd-ce', 'apgd-dlr', 'apgd-t', 'fab', 'fab-t', 'square'] as const;
export type AutoAttackName = (typeof autoAttackNames)[number];
export const autoAttackVersions = ['standard', 'plus', 'rand', 'custom'] as const;

export interface AutoAttackOptions {
  readonly norm: Norm;
  readonly eps: number;
  /** Default standard. */
  readonly version?: (typeof autoAttackVersions)[number];
  /** For version custom. */
  readonly attacks?: readonly (AutoAttackName | Attack)[];
  /**
   * Of apgd-ce and apgd-dlr, as `apgd.eot_iter` of the published code; default one draw, in version rand 20, judged by the last
   * as published.
   */
  readonly eot?: Eot;
  /**
   * How often a candidate is shown to a randomised target before it counts: it must be misclassified in at least half.
   * Default 1, the published rule, by which one lucky draw ends an image.
   */
  readonly evaluations?: number;
  readonly seed?: number;
}

export interface Stage {
  readonly attack: string;
  /** Images that were robust before it. */
  readonly images: readonly number[];
  /** Of those, the ones it broke. */
  readonly broken: readonly number[];
  /** Share of all images robust after it. */
  readonly robustAccuracy: number;
  /** Its own result for `images`, in their order; success as it judged itself. Dispose of `adversarial` after use. */
  readonly result: AttackResult;
  readonly seconds: number;
}

export interface AutoAttackResult extends AttackResult {
  /** Images classified correctly before any attack. */
  readonly clean: boolean[];
  readonly stages: Stage[];
}

/** The attack `name` with the constants of a version. */
function make(
  name: AutoAttackName,
  version: string,
  norm: Norm,
  eps: number,
  seed: number,
  eot: Eot,
): Attack {
  const wide = norm === 'L1' && version === 'standard';
  const restarts = (version === 'standard' || version === 'rand') && !wide ? 1 : 5;
  const apgd = { norm, eps, seed, largerRadii: wide };
  switch (name) {
    case 'apgd-ce':
    case 'apgd-dlr':
      return new Apgd({ ...apgd, loss: name === 'apgd-ce' ? 'ce' : 'dlr', restarts, eot });
    case 'apgd-t':
      return new Apgd({ ...apgd, loss: 'targeted', targetClasses: wide ? 5 : 9 });
    case 'fab':
      return new Fab({ norm, eps, targeted: false, restarts, seed });
    case 'fab-t':
      return new Fab({ norm, eps, targeted: true, seed });
    case 'square':
      return new Square({ norm, eps, seed });
    default:
      throw new InputError(`autoattack: "${name}" is not known; there are ${autoAttackNames.join(', ')}`);
  }
}

const named: Readonly<Record<string, readonly AutoAttackName[]>> = {
  standard: ['apgd-ce', 'apgd-t', 'fab-t', 'square'],
  plus: ['apgd-ce', 'apgd-dlr', 'fab', 'square', 'apgd-t', 'fab-t'],
  rand: ['apgd-ce', 'apgd-dlr'],
};

export class AutoAttack implements Attack {
  readonly name = 'autoattack';
  readonly norm: Norm;
  readonly eps: number;
  readonly version: string;
  readonly attacks: readonly Attack[];
  readonly #evaluations: number;
  readonly #seed: number;
  /** Whether it is made for a target that draws: what is chosen for one, with several draws a gradient, is as well. */
  readonly #forRandom: boolean;

  /** @throws InputError for options that do not fit together */
  constructor(options: AutoAttackOptions) {
    const { norm, eps, version = 'standard', attacks, evaluations = 1, seed = 0 } = options;
    const eot: Eot = options.eot ?? (version === 'rand' ? { draws: 20, judge: 'last' } : once);
    checkBall(norm, eps);
    checkCount('evaluations', evaluations);
    checkSeed(seed);
    if (!autoAttackVersions.includes(version))
      throw new InputError(
        `autoattack: version "${version}" is not known; there are ${autoAttackVersions.join(', ')}`,
      );
    if (version !== 'custom' && attacks)
      throw new InputError(
        `autoattack: version ${version} has its own attacks; take version custom to choose them`,
      );
    const chosen = version === 'custom' ? attacks : named[version];
    if (!chosen || chosen.length === 0)
      throw new InputError(`autoattack: version custom needs attacks, of ${autoAttackNames.join(', ')}`);
    this.attacks = chosen.map((a) => (typeof a === 'string' ? make(a, version, norm, eps, seed, eot) : a));
    for (const a of this.attacks) {
      if (a.norm !== norm || a.eps !== eps)
        throw new InputError(
          `autoattack: ${a.name} is for ${a.norm} ${a.eps}, the ensemble for ${norm} ${eps}; give them one ball`,
        );
    }
    this.norm = norm;
    this.eps = eps;
    this.version = version;
    this.#evaluations = evaluations;
    this.#seed = seed;
    this.#forRandom = version === 'rand' || (version === 'custom' && eot.draws > 1);
  }

  async run(
    target: Target,
    x: Tensor,
    labels: readonly number[],
    hooks: AttackHooks = {},
  ): Promise<AutoAttackResult> {
    const job = await Job.open(this.name, target, x, labels, this, hooks);
    const slots = new Slots(job);
    // Candidates are judged by other draws than those they were made for.
    const query = new Query(target, slots, { loss: null, goal: 'untargeted', seed: judgingSeed(this.#seed) });
    const stages: Stage[] = [];
    const passes = { forward: 0, backward: 0 };
    try {
      const before = await this.#show(job, slots, query, job.all, job.x);
      for (const i of job.all) {
        const { wrong, margin } = before[i] as Shown;
        job.success[i] = wrong && job.misread === 'left';
        job.loss[i] = -margin;
      }
      const clean = before.map(({ wrong }) => !wrong);
      job.notes.push(...(await this.#warnings(job, slots, query, target, before)));
      for (const [s, attack] of this.attacks.entries()) {
        const images = job.remaining;
        if (images.length === 0) break;
        const began = Date.now();
        const those = pick(job, images);
        const result = await attack.run(
          target,
          those,
          images.map((i) => labels[i] as number),
          {
            imageIds: images.map((i) => job.ids[i] as number),
            batch: hooks.batch ?? Math.min(job.batch, 8 * Math.ceil(images.length / 8)),
            misread: job.misread,
            onStep: (done, total) => hooks.onStep?.(s + done / total, this.attacks.length),
          },
        );
        those.dispose();
        const points = await result.adversarial.floats();
        const shown = await this.#show(job, slots, query, images, points);
        const broken: number[] = [];
        images.forEach((i, k) => {
          const { wrong, margin } = shown[k] as Shown;
          if (wrong) broken.push(i);
          job.success[i] = wrong;
          if (wrong || -margin > (job.loss[i] as number)) job.keep(i, points, k, -margin);
          job.trace[i]?.loss.push(...(result.trace[k]?.loss ?? []));
          job.trace[i]?.hit.push(...(result.trace[k]?.hit ?? []));
        });
        passes.forward += result.passes.forward;
        passes.backward += result.passes.backward;
        job.notes.push(...result.notes.map((note) => `${attack.name}: ${note}`));
        const seconds = (Date.now() - began) / 1000;
        const robustAccuracy = job.remaining.length / job.count;
        stages.push({ attack: attack.name, images, broken, robustAccuracy, result, seconds });
      }
      // A black-box attack that beats the white-box ones before it says that their gradients are not to be trusted.
      const square = stages.find((stage) => stage.attack === 'square');
      if (square && square !== stages[0] && square.broken.length > 0.002 * job.count)
        job.notes.push(
          `square broke ${square.broken.length} images that gradient attacks left; their gradients may be masked`,
        );
      passes.forward += query.passes.forward;
      return { ...job.result(passes), clean, stages };
    } catch (error) {
      for (const stage of stages) stage.result.adversarial.dispose();
      throw error;
    } finally {
      query.dispose();
      slots.dispose();
    }
  }

  /** The target's word on one point an image: wrong in at least half of the evaluations, and the mean margin. */
  async #show(job: Job, slots: Slots, query: Query, images: readonly number[], points: Float32Array) {
    const shown: Shown[] = [];
    const classes = query.logits.shape[1] as number;
    const n = this.#evaluations;
    let from = 0;
    for (const group of job.batches(images)) {
      slots.load(group);
      const row = (b: number) => (from + Math.min(b, group.length - 1)) * job.size;
      const x = new Float32Array(slots.batch * job.size);
      for (let b = 0; b < slots.batch; b++) x.set(points.subarray(row(b), row(b) + job.size), b * job.size);
      slots.x.write(x);
      query.restart();
      const misses = new Array<number>(group.length).fill(0);
      const margins = new Array<number>(group.length).fill(0);
      let logits = new Float32Array();
      for (let e = 0; e < n; e++) {
        await query.forwardPass();
        logits = (await query.logits.floats()) as Float32Array<ArrayBuffer>;
        const hit = await query.hit.floats();
        group.forEach((i, b) => {
          misses[b]! += hit[b] as number;
          margins[b]! +=
            marginOf(logits.subarray(b * classes, (b + 1) * classes), job.labels[i] as number) / n;
        });
      }
      group.forEach((_, b) => {
        shown.push({
          wrong: (misses[b] as number) >= n / 2,
          margin: margins[b] as number,
          logits: [...logits.subarray(b * classes, (b + 1) * classes)],
        });
      });
      from += group.length;
    }
    return shown;
  }

  /** The published warnings about targets for which the ensemble is not made. */
  async #warnings(job: Job, slots: Slots, query: Query, target: Target, before: readonly Shown[]) {
    const notes: string[] = [];
    const { version } = this;
    const some = job.all.slice(0, slots.batch);
    if (!this.#forRandom) {
      // The draws go on, so a second look at a randomised target differs.
      slots.load(some);
      await query.forwardPass();
      const again = await query.logits.floats();
      const classes = target.classes;
      const differs = some.some((i, b) =>
        (before[i] as Shown).logits.some((z, c) => Math.abs(z - (again[b * classes + c] as number)) > 1e-4),
      );
      if (differs || target.randomised)
        notes.push(
          `the target is randomised; version ${version} is for deterministic ones, take version rand`,
        );
    }
    if ('process' in target)
      notes.push(
        'the target runs a process of its own at inference; the ensemble may be insufficient, add adaptive attacks',
      );
    if (some.every((i) => isDistribution((before[i] as Shown).logits)))
      notes.push('the outputs are probabilities; give the attacks logits');
    return notes;
  }
}

interface Shown {
  readonly wrong: boolean;
  readonly margin: number;
  /** Of the last evaluation. */
  readonly logits: readonly number[];
}

/** Whether the outputs for an image are probabilities: in [0, 1], of sum 1, to 1e-5 as in the published code. */
export function isDistribution(outputs: Iterable<number>): boolean {
  let total = 0;
  for (const z of outputs) {
    if (!(z >= -1e-5 && z <= 1 + 1e-5)) return false;
    total += z;
  }
  return Math.abs(total - 1) < 1e-5;
}

/** z_y − max_{j≠y} z_j. */
export function marginOf(logits: Float32Array, label: number): number {
  let others = Number.NEGATIVE_INFINITY;
  logits.forEach((z, c) => {
    if (c !== label) others = Math.max(others, z);
  });
  return (logits[label] as number) - others;
}

/** Far from the seeds in use. */
const judgingSeed = (seed: number) => (seed + 2 ** 42) % 2 ** 53;

/** Some images of a Job. */
function pick(job: Job, images: readonly number[]): Tensor {
  const rows = new Float32Array(images.length * job.size);
  images.forEach((i, k) => {
    rows.set(job.x.subarray(i * job.size, (i + 1) * job.size), k * job.size);
  });
  return job.device.keep(job.device.tensor(rows, [images.length, ...job.imageShape]));
}
