/**
 * The checklist of Carlini et al. 2019, "On evaluating adversarial robustness" (Sec. 4 and 5), as far as a machine can
 * tick it. Some items are read off the records; others need small experiments on some of the images, judged on the
 * surface that is attacked, with the very attack that the records are of: its settings, its seed, its surface. An item that
 * cannot be told is `not-tested`, with the reason, and never `pass`.
 */

import { type AttackHooks, Job, longestStep, type Norm, Slots, streams } from '../attacks/attack.ts';
import { marginOf } from '../attacks/autoattack.ts';
import { attackLoss } from '../attacks/losses.ts';
import { Query } from '../attacks/query.ts';
import { surfaceOf } from '../attacks/spec.ts';
import type { Target } from '../attacks/target.ts';
import type { AttackSurface, Defence } from '../defences/defence.ts';
import type { Device } from '../engine/device.ts';
import { randomUniform } from '../engine/random.ts';
import { sizeOf, type Tensor } from '../engine/tensor.ts';
import { add } from '../kernels/broadcast.ts';
import { affine } from '../kernels/elementwise.ts';
import { median } from '../report/statistics.ts';
import { type AttackSettings, type PlannedAttack, planAttacks } from './attacks.ts';
import { majorityRight, RecordTable } from './metrics.ts';
import { attackImages, budgetOf, distances, type EvaluationImages, pickImages } from './run.ts';
import { attackSeed, judgeSeed } from './seeds.ts';
import { type EvaluationConfig, type EvaluationRecord, isAttacked, readAdversarial } from './store.ts';

export interface ChecklistItem {
  readonly id: string;
  /** What must hold. */
  readonly claim: string;
  readonly result: 'pass' | 'fail' | 'not-tested';
  /** The numbers, or the reason. */
  readonly detail: string;
}

export interface VerifyInput {
  readonly folder: string;
  readonly config: EvaluationConfig;
  readonly records: readonly EvaluationRecord[];
  readonly defence: Defence;
  /** All images of the evaluation. */
  readonly data: EvaluationImages;
  /** Images of the experiments, the first of them; 0 makes none. */
  readonly count: number;
  readonly batch: number;
  /** Random points an image; 0 leaves them out. */
  readonly noise: number;
  readonly onProgress?: (what: string) => void;
}

type Finding = readonly [ChecklistItem['result'], string];
const verdict = (holds: boolean, detail: string): Finding => [holds ? 'pass' : 'fail', detail];
const untested = (reason: string): Finding => ['not-tested', reason];

export async function verifyEvaluation(device: Device, input: VerifyInput): Promise<ChecklistItem[]> {
  const { config, records } = input;
  const items: ChecklistItem[] = [];
  const add = (id: string, claim: string, [result, detail]: Finding) =>
    items.push({ id, claim, result, detail });
  const stored = recheck(input);
  add('range', 'attacked images lie in [0, 1]', stored.range);
  add('budget', `perturbations lie within eps in ${config.norm}`, stored.budget);
  add('complete', 'every image has a record under every attack and run', completeness(config, records));
  add('adaptive', 'at least one attack knows the defence', adaptive(config));
  add(
    'adaptive-transfer',
    'adaptive attacks are no worse than transfer attacks',
    adaptiveAgainstTransfer(config, records),
  );
  const bench = new Bench(device, input);
  try {
    add('reproduced', 'the attack, run again, does what the records say', await bench.reproduced());
    add('iterative', 'iterative attacks beat single steps', await bench.iterative());
    add('black-box', 'black-box attacks do not beat white-box attacks', await bench.blackBox());
    add('noise', 'random noise breaks nothing that gradients left', await bench.noise());
    add('budget-sweep', 'success rises with eps, to 100 %', await bench.sweep());
    add('more-steps', 'twice the steps change nothing', await bench.more('steps'));
    add('more-restarts', 'more restarts change nothing', await bench.more('restarts'));
    const gradients = await bench.gradients();
    add('gradient-zero', 'gradients are not zero', gradients.zero);
    add('finite-differences', 'gradients agree with finite differences', gradients.exact);
  } finally {
    bench.dispose();
  }
  return items;
}

/** ‖δ‖ and range, computed again from the stored images. */
function recheck({ folder, config, records, data }: VerifyInput): { range: Finding; budget: Finding } {
  const kept = records.filter(isAttacked);
  if (kept.length === 0) {
    const nothing = untested('nothing was attacked');
    return { range: nothing, budget: nothing };
  }
  const rows = new Map(data.ids.map((id, row) => [id, row]));
  const size = sizeOf(data.shape.slice(1));
  let [low, high, longest, outside, beyond] = [1, 0, 0, 0, 0];
  readAdversarial(folder, kept).forEach((points, i) => {
    const record = kept[i] as EvaluationRecord;
    const row = rows.get(record.image) as number;
    const clean = data.images.subarray(row * size, (row + 1) * size);
    const found = distances(clean, points, 0, size);
    const { length, within } = budgetOf(found, config);
    low = Math.min(low, found.min);
    high = Math.max(high, found.max);
    longest = Math.max(longest, length);
    if (!(found.min >= 0 && found.max <= 1)) outside++;
    if (!within) beyond++;
  });
  return {
    range: verdict(outside === 0, `${kept.length} images in [${low}, ${high}], ${outside} outside`),
    budget: verdict(
      beyond === 0,
      `${kept.length} images, longest ${longest.toPrecision(6)} of eps ${config.eps.toPrecision(6)}, ${beyond} beyond`,
    ),
  };
}

function completeness(config: EvaluationConfig, records: readonly EvaluationRecord[]): Finding {
  const table = new RecordTable(records);
  let missing = 0;
  let wanted = 0;
  for (const [name, { kind }] of Object.entries(config.attacks)) {
    for (let run = 0; run < (kind === 'none' ? 1 : config.runs); run++) {
      for (const image of config.images) {
        wanted++;
        const record = table.at(name, run, image);
        if (record?.run !== run) missing++;
      }
    }
  }
  return verdict(missing === 0, `${wanted - missing} of ${wanted}`);
}

const namesOf = (config: EvaluationConfig, wanted: (a: EvaluationConfig['attacks'][string]) => boolean) =>
  Object.entries(config.attacks)
    .filter(([, a]) => a.kind !== 'none' && wanted(a))
    .map(([name]) => name);

function adaptive(config: EvaluationConfig): Finding {
  const names = namesOf(config, (a) => a.knowledge === 'adaptive');
  if (names.length > 0) return ['pass', names.join(', ')];
  const met = namesOf(config, () => true).length > 0 ? 'transfer attacks only' : 'no attack';
  return ['fail', `defence ${config.defence.name} was met by ${met}: its numbers bound nothing`];
}

/** Images that a set of attacks broke in any run, by majority of the judgements. */
function brokenBy(config: EvaluationConfig, records: readonly EvaluationRecord[], names: readonly string[]) {
  const images = new Set(config.images);
  return new Set(
    records
      .filter((r) => names.includes(r.attack) && images.has(r.image) && !majorityRight(r))
      .map((r) => r.image),
  );
}

function adaptiveAgainstTransfer(config: EvaluationConfig, records: readonly EvaluationRecord[]): Finding {
  const knowing = namesOf(config, (a) => a.knowledge === 'adaptive');
  const other = namesOf(config, (a) => a.knowledge === 'transfer');
  if (knowing.length === 0 || other.length === 0)
    return untested(
      `there are ${knowing.length} adaptive and ${other.length} transfer attacks; evaluate both, such as pgd,pgd@classifier`,
    );
  const [a, b] = [brokenBy(config, records, knowing), brokenBy(config, records, other)];
  const only = [...b].filter((image) => !a.has(image)).length;
  return verdict(
    a.size >= b.size,
    `adaptive attacks broke ${a.size}, transfer attacks ${b.size} of ${config.images.length}; ${only} only by transfer`,
  );
}

/** One image, or one in a hundred, is chance. */
const slack = (n: number) => Math.max(1, Math.floor(0.01 * n));

/** The experiments. */
class Bench {
  readonly #device: Device;
  readonly #input: VerifyInput;
  readonly #x: Tensor | null;
  readonly #labels: readonly number[];
  readonly #ids: readonly number[];
  /** The iterative gradient attack that experiments vary, as it was evaluated where one was. */
  readonly #main: PlannedAttack;
  readonly #settings: AttackSettings;
  readonly #recorded: boolean;
  readonly #plain = new Map<string, readonly boolean[]>();

  constructor(device: Device, input: VerifyInput) {
    const { config, data, count } = input;
    this.#device = device;
    this.#input = input;
    const rows = data.ids.slice(0, count).map((_, i) => i);
    this.#x = rows.length > 0 ? pickImages(device, data, rows) : null;
    this.#labels = rows.map((i) => data.labels[i] as number);
    this.#ids = rows.map((i) => data.ids[i] as number);
    // An attack on the inside of a defence has no gradient of a surface to check.
    const iterative = namesOf(config, (a) => a.kind === 'iterative').filter(
      (n) =>
        config.attacks[n]?.knowledge === input.defence.surfaces[config.attacks[n]?.surface ?? '']?.knowledge,
    );
    const name = iterative.find((n) => config.attacks[n]?.knowledge === 'adaptive') ?? iterative[0];
    this.#recorded = name !== undefined;
    const known = (name === undefined ? {} : config.attacks[name]?.settings) as Partial<AttackSettings>;
    this.#settings = {
      ...{ steps: 20, restarts: 1, eot: 1, queries: 300 },
      ...known,
      norm: config.norm,
      eps: config.eps,
    };
    this.#main = this.#plan(name ?? 'pgd');
  }

  get #n(): number {
    return this.#labels.length;
  }

  #plan(name: string): PlannedAttack {
    return planAttacks([name], this.#settings, this.#input.defence)[1] as PlannedAttack;
  }

  /** Another attack on the surface of the main one. */
  #beside(name: string): PlannedAttack {
    return this.#plan(`${name}${surfaceOf(this.#main.id)}`);
  }

  get #surface(): AttackSurface {
    return this.#main.on as AttackSurface;
  }

  /** How many of the images an attack fools on its surface. */
  async #fooled(attack: PlannedAttack, other: Partial<AttackSettings> = {}): Promise<number> {
    return (await this.#successes(attack, other)).filter(Boolean).length;
  }

  async #successes(attack: PlannedAttack, other: Partial<AttackSettings> = {}): Promise<readonly boolean[]> {
    const key = `${attack.id} ${JSON.stringify(other)}`;
    const known = this.#plain.get(key) ?? (await this.#attack(attack, this.#labels.keys(), other));
    this.#plain.set(key, known);
    return known;
  }

  /** An attack on the images of some rows, as in the first run: which it fools. */
  async #attack(
    attack: PlannedAttack,
    rows: Iterable<number>,
    other: Partial<AttackSettings>,
  ): Promise<boolean[]> {
    const { defence, batch, config, data, onProgress } = this.#input;
    onProgress?.(`${attack.id} ${JSON.stringify(other)}`.replace(/[{}"]/g, ''));
    const chosen = [...rows];
    const x = pickImages(this.#device, data, chosen);
    const of = (list: readonly number[]) => chosen.map((row) => list[row] as number);
    const seeds = Array.from({ length: config.evaluations }, (_, e) => judgeSeed(config.seed, 0, e));
    try {
      const result = await attackImages(
        { defence, batch },
        attack,
        attackSeed(config.seed, 0),
        seeds,
        { ids: of(this.#ids), labels: of(this.#labels), x },
        undefined,
        other,
      );
      for (const stage of result?.stages ?? []) stage.result.adversarial.dispose();
      result?.adversarial.dispose();
      result?.candidates?.dispose();
      return result?.success ?? chosen.map(() => false);
    } finally {
      x.dispose();
    }
  }

  async reproduced(): Promise<Finding> {
    const skipped = this.#skipped();
    if (skipped) return skipped;
    if (!this.#recorded) return untested('no iterative attack on a surface was evaluated');
    const table = new RecordTable(this.#input.records);
    const { id } = this.#main;
    const now = await this.#successes(this.#main);
    const before = this.#ids.map((image) => table.at(id, 0, image)?.success);
    if (before.some((success) => success === undefined))
      return ['fail', `${id}: the records of the first ${this.#n} images are not all there`];
    const other = before.filter((success, i) => success !== now[i]).length;
    return verdict(
      other <= slack(this.#n),
      `${id}: other success on ${other} of ${this.#n} images, ${now.filter(Boolean).length} fooled now`,
    );
  }

  #skipped(): Finding | null {
    return this.#x ? null : untested('experiments were switched off by --count 0');
  }

  async iterative(): Promise<Finding> {
    const { config, records } = this.#input;
    const single = namesOf(config, (a) => a.kind === 'single-step');
    const many = namesOf(config, (a) => a.kind === 'iterative' || a.kind === 'ensemble');
    if (single.length > 0 && many.length > 0) {
      const [a, b] = [brokenBy(config, records, many).size, brokenBy(config, records, single).size];
      const n = config.images.length;
      return verdict(a > b || a === n, `${many.join(', ')} broke ${a}, ${single.join(', ')} ${b} of ${n}`);
    }
    const skipped = this.#skipped();
    if (skipped) return skipped;
    const [a, b] = [await this.#fooled(this.#main), await this.#fooled(this.#beside('fgsm'))];
    return verdict(a > b || a === this.#n, `${this.#main.id} fooled ${a}, fgsm ${b} of ${this.#n}`);
  }

  async blackBox(): Promise<Finding> {
    const { config, records } = this.#input;
    const black = namesOf(config, (a) => a.kind === 'black-box');
    const white = namesOf(config, (a) => ['iterative', 'single-step', 'ensemble'].includes(a.kind));
    if (black.length > 0 && white.length > 0) {
      const open = brokenBy(config, records, white);
      const only = [...brokenBy(config, records, black)].filter((image) => !open.has(image)).length;
      const n = config.images.length;
      return verdict(
        only <= slack(n),
        `${black.join(', ')} broke ${only} of ${n} that gradient attacks left`,
      );
    }
    const skipped = this.#skipped();
    if (skipped) return skipped;
    const square = this.#beside('square:queries=300');
    const [a, b] = [await this.#fooled(this.#main), await this.#fooled(square)];
    return verdict(
      b <= a + slack(this.#n),
      `square with 300 queries fooled ${b}, ${this.#main.id} ${a} of ${this.#n}`,
    );
  }

  /** Random points of the ball (Sec. 4.11: 10,000 or more), for the images that the gradient left. */
  async noise(): Promise<Finding> {
    const skipped = this.#skipped();
    if (skipped) return skipped;
    const { noise } = this.#input;
    const { cost = 1 } = this.#surface;
    if (noise === 0) return untested('noise was switched off by --noise 0');
    if (cost > 1)
      return untested(
        `a point costs ${cost} network evaluations; cmap eval --attack noise${surfaceOf(this.#main.id)} tries 10,000`,
      );
    const broken = await this.#successes(this.#main);
    const left = [...broken.keys()].filter((row) => !broken[row]);
    if (left.length === 0) return verdict(true, `${this.#main.id} left none of ${this.#n} images to noise`);
    const hits = await this.#attack(this.#beside('noise'), left, { points: noise });
    const count = hits.filter(Boolean).length;
    return verdict(
      count <= slack(this.#n),
      `${noise} random points broke ${count} of the ${left.length} images that ${this.#main.id} left`,
    );
  }

  async sweep(): Promise<Finding> {
    const skipped = this.#skipped();
    if (skipped) return skipped;
    const { config, data } = this.#input;
    // At half the range every image can become the same gray one: nothing can be right about all of them.
    const size = sizeOf(data.shape.slice(1));
    const most = { Linf: 0.5, L2: 0.5 * Math.sqrt(size), L1: 0.5 * size }[config.norm];
    const levels = [0.25, 0.5, 1, 2, 4].map((f) => f * config.eps).filter((eps) => eps < most && eps > 0);
    const fooled: number[] = [];
    const { stepSize } = this.#settings;
    for (const eps of [...levels, most]) {
      const step =
        typeof stepSize === 'number'
          ? { stepSize: Math.min((stepSize * eps) / config.eps, longestStep(config.norm)) }
          : {};
      fooled.push(await this.#fooled(this.#main, { eps, ...step }));
    }
    const rises = fooled.every((count, i) => i === 0 || count >= (fooled[i - 1] as number) - slack(this.#n));
    const all = fooled.at(-1) === this.#n;
    const detail = [...levels, most].map((eps, i) => `${eps.toPrecision(3)}: ${fooled[i]}`).join(', ');
    return verdict(rises && all, `${this.#main.id}, images fooled of ${this.#n} by eps: ${detail}`);
  }

  async more(what: 'steps' | 'restarts'): Promise<Finding> {
    const skipped = this.#skipped();
    if (skipped) return skipped;
    const { id, settings } = this.#main;
    const factor = what === 'steps' ? 2 : 5;
    const times = settings[what] as number | undefined;
    if (times === undefined) return untested(`${id} has no ${what}`);
    const [before, after] = [
      await this.#fooled(this.#main),
      await this.#fooled(this.#main, {
        [what]: factor * times,
        // From one and the same point all restarts are one.
        ...(what === 'restarts' ? { start: 'random' as const } : {}),
      }),
    ];
    return verdict(
      after <= before + slack(this.#n),
      `${id}: ${times} ${what} fooled ${before}, ${factor * times} fooled ${after} of ${this.#n}`,
    );
  }

  async gradients(): Promise<{ zero: Finding; exact: Finding }> {
    const skipped = this.#skipped();
    if (skipped) return { zero: skipped, exact: skipped };
    const { surface } = this.#main;
    const { target, exact, summary } = this.#surface;
    this.#input.onProgress?.('gradients');
    const found = await directionalErrors(
      this.#device,
      target,
      this.#x as Tensor,
      this.#labels,
      { imageIds: this.#ids, batch: Math.min(this.#input.batch, this.#n) },
      this.#input.config.norm,
    );
    const zero = verdict(
      found.zeros === 0,
      `surface ${surface}: zero at ${found.zeros} of ${this.#n} images`,
    );
    if (!exact) return { zero, exact: untested(`surface ${surface} is no derivative by design: ${summary}`) };
    if (found.errors.length === 0) return { zero, exact: ['fail', 'every gradient is zero'] };
    const error = median(found.errors);
    return {
      zero,
      // Networks with kinks differ at some images; a wrong gradient differs at all.
      exact: verdict(
        error < 0.05,
        `surface ${surface}: median relative error ${error.toExponential(1)} of ${found.errors.length} directional derivatives`,
      ),
    };
  }

  dispose(): void {
    this.#x?.dispose();
  }
}

/**
 * |(L(x + hd) − L(x − hd)) / 2h − ⟨∇L, d⟩| / |⟨∇L, d⟩| for the margin loss L and directions d along the gradient
 * and along two random halves of it; the smaller error of two h.
 */
export async function directionalErrors(
  device: Device,
  target: Target,
  x: Tensor,
  labels: readonly number[],
  hooks: AttackHooks,
  norm: Norm = 'Linf',
): Promise<{ errors: number[]; zeros: number }> {
  // Points are moved off the edge of [0, 1], where a defence may cut, and flat areas made uneven: among equal values the
  // gradient of a maximum is one-sided, differences are not.
  const inner = device.keep(
    device.scope(() => {
      const uneven = randomUniform(device, x.shape, { seed: 0, purpose: streams.unevenness });
      return add(affine(x, 0.9, 0.03), affine(uneven, 0.04));
    }),
  );
  const job = await Job.open('verify', target, inner, labels, { norm, eps: 0 }, hooks);
  const slots = new Slots(job);
  const loss = attackLoss('margin', false, target.classes);
  const query = new Query(target, slots, { loss, goal: 'untargeted' });
  const errors: number[] = [];
  let zeros = 0;
  try {
    for (const images of job.batches(job.all)) {
      slots.load(images);
      query.restart();
      await query.gradientPass();
      const gradient = await query.gradient.floats();
      const base = slots.rows(job.x);
      const { size } = job;
      const norms = images.map((_, b) => Math.hypot(...gradient.subarray(b * size, (b + 1) * size)));
      zeros += norms.filter((length) => length === 0).length;
      for (let part = 0; part < 3; part++) {
        const d = gradient.map((g, k) => (part === 0 || bit(k, part) ? g : 0));
        const lengths = images.map((_, b) => Math.hypot(...d.subarray(b * size, (b + 1) * size)));
        const best = images.map(() => Number.POSITIVE_INFINITY);
        for (const h of [0.02, 0.005]) {
          const at = async (sign: number) => {
            slots.x.write(
              base.map((v, k) => {
                const length = lengths[Math.min(Math.floor(k / size), images.length - 1)] as number;
                return length > 0 ? v + (sign * h * (d[k] as number)) / length : v;
              }),
            );
            query.restart();
            await query.forwardPass();
            const logits = await query.logits.floats();
            const { classes } = target;
            return images.map(
              (i, b) => -marginOf(logits.subarray(b * classes, (b + 1) * classes), labels[i] as number),
            );
          };
          const up = await at(1);
          const down = await at(-1);
          images.forEach((_, b) => {
            const length = lengths[b] as number;
            // ⟨∇L, d/‖d‖⟩ = ‖d‖, because d is a part of ∇L.
            const error = Math.abs(((up[b] as number) - (down[b] as number)) / (2 * h) - length) / length;
            best[b] = Math.min(best[b] as number, error);
          });
        }
        errors.push(...best.filter((_, b) => (lengths[b] as number) > 0));
      }
    }
  } finally {
    query.dispose();
    slots.dispose();
    inner.dispose();
  }
  return { errors, zeros };
}

/** A random half of the positions. */
const bit = (k: number, part: number) => ((Math.imul(k + 1, 0x9e3779b1 * part) >>> 16) & 1) === 1;
