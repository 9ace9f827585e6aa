/**
 * The evaluation: every attack on every image, every attacked image before the whole defence, a line each. Images go
 * through in batches; all random numbers are keyed by an image's number in the test set, by the run and by what they
 * are for, so that results depend neither on the batch nor on the order, nor on how often the work was interrupted.
 */
import { type AttackResult, streams } from '../attacks/attack.ts';
import type { Stage } from '../attacks/autoattack.ts';
import { Pgd } from '../attacks/pgd.ts';
import type { TraceEntry } from '../cmap/purify.ts';
import { classify, countVotes, type Vote } from '../cmap/vote.ts';
import type { AttackSurface, Defence, Judged } from '../defences/defence.ts';
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import { randomUniform } from '../engine/random.ts';
import { sizeOf, type Tensor } from '../engine/tensor.ts';
import type { TensorToWrite } from '../formats/safetensors.ts';
import { mean } from '../report/statistics.ts';
import { attackConfig, noAttack, type PlannedAttack, type TargetRule } from './attacks.ts';
import { type EvaluationSummary, summarise } from './metrics.ts';
import { attackSeed, judgeSeed } from './seeds.ts';
import type { EvaluationConfig, EvaluationRecord, PurificationRecord, RecordStore } from './store.ts';

/** Images of the test set with their numbers there. */
export interface EvaluationImages {
  /** [N, H, W, C] in [0, 1]. */
  readonly images: Float32Array;
  readonly shape: readonly [number, number, number, number];
  readonly labels: readonly number[];
  readonly ids: readonly number[];
}

export interface EvaluationPlan {
  readonly data: EvaluationImages;
  readonly defence: Defence;
  /** From planAttacks. */
  readonly attacks: readonly PlannedAttack[];
  readonly seed: number;
  readonly runs: number;
  readonly evaluations: number;
  /** Images together, at most: what a kill loses. */
  readonly batch: number;
  /** Images that cost more network evaluations than this go one at a time; default none does. */
  readonly alone?: number;
  /** Store what the defence made of the images. */
  readonly purified: boolean;
}

export interface EvaluationRunHooks {
  /** Network evaluations done, of workOf(plan). */
  readonly onProgress?: (done: number, total: number, what: string) => void;
}

/** Network evaluations of an evaluation, at most: its attacks' on their surfaces, and the judgements'. */
export function workOf(plan: EvaluationPlan): number {
  const { data, attacks, runs } = plan;
  return attacks.reduce(
    (sum, attack) => sum + data.ids.length * runsOf(attack, runs) * workOfImage(plan, attack),
    0,
  );
}

const attackWork = ({ passes, inside }: PlannedAttack) => passes + inside;
const workOfImage = ({ evaluations, defence }: EvaluationPlan, attack: PlannedAttack) =>
  attackWork(attack) + evaluations * defence.passes;

/**
 * Images together under an attack. By counts and never by measured time, so that an evaluation that is resumed makes the
 * same groups; where images change each other's results nothing separates them.
 */
export const batchOf = (plan: EvaluationPlan, attack: PlannedAttack): number =>
  attack.settings.compat === undefined && workOfImage(plan, attack) > (plan.alone ?? Number.POSITIVE_INFINITY)
    ? 1
    : plan.batch;

/** Runs of an attack: what draws nothing is not repeated. */
export const runsOf = (attack: PlannedAttack, runs: number) => (attack.kind === 'none' ? 1 : runs);

/** What identifies an evaluation: the plan's own settings, and those that it does not hold. */
export function evaluationConfig(
  plan: EvaluationPlan,
  identity: Pick<EvaluationConfig, 'dataset' | 'classifier' | 'generator' | 'norm' | 'eps' | 'source'>,
): EvaluationConfig {
  const { defence, attacks, data, seed, runs, evaluations, batch } = plan;
  const { source, ...known } = identity;
  return {
    schema: 1,
    ...known,
    images: data.ids,
    defence: { name: defence.name, settings: defence.settings },
    ...{ seed, runs, evaluations },
    attacks: Object.fromEntries(attacks.map((attack) => [attack.id, attackConfig(attack, batch)])),
    ...(source ? { source } : {}),
  };
}

/** Does what the store lacks. @returns the metrics, which the caller stores */
export async function runEvaluation(
  device: Device,
  plan: EvaluationPlan,
  store: RecordStore,
  hooks: EvaluationRunHooks = {},
): Promise<EvaluationSummary> {
  const { data, attacks, runs } = plan;
  checkPlan(plan, store);
  const n = data.ids.length;
  const total = workOf(plan);
  let done = 0;
  for (const attack of attacks) {
    const work = workOfImage(plan, attack);
    for (let run = 0; run < runsOf(attack, runs); run++) {
      const rowsOf = (wanted: (id: number) => boolean) =>
        data.ids.flatMap((id, i) => (wanted(id) ? [i] : []));
      const missing = rowsOf((id) => !store.has(id, attack.id, run));
      done += work * (n - missing.length);
      // Where images change each other's results, they stay together as they were at first.
      const together = attack.settings.compat !== undefined;
      const groups = groupsOf(together ? rowsOf(() => true) : missing, batchOf(plan, attack));
      for (const rows of groups) {
        if (together && !rows.some((row) => missing.includes(row))) continue;
        const name = `${attack.id}${runs > 1 ? ` run ${run + 1}` : ''}`;
        const onStep = (part: number, what: string) =>
          hooks.onProgress?.(done + part * work * rows.length, total, `${name}, ${what}`);
        const found = await evaluateBatch(device, plan, attack, run, rows, onStep);
        checkBudget(attack, found.records, store);
        store.append(found.file, found.tensors, found.records);
        done += work * rows.length;
        hooks.onProgress?.(done, total, name);
      }
    }
  }
  return summarise(store.config, store.records.values());
}

/** @throws InputError where the configuration that is stored says something else than the plan that is carried out */
function checkPlan(
  { data, defence, attacks, seed, runs, evaluations }: EvaluationPlan,
  store: RecordStore,
): void {
  const { config } = store;
  const pairs: [string, unknown, unknown][] = [
    ['images', String(config.images), String(data.ids)],
    ['defence', config.defence.name, defence.name],
    ['seed', config.seed, seed],
    ['runs', config.runs, runs],
    ['evaluations', config.evaluations, evaluations],
  ];
  for (const [name, said, planned] of pairs)
    if (said !== planned)
      throw new InputError(`evaluation: ${name} of the configuration: ${said}, of the plan: ${planned}`);
  for (const { id } of attacks)
    if (!(id in config.attacks))
      throw new InputError(`evaluation: attack ${id} of the plan is missing in the configuration`);
}

/** @throws InputError where an attack left its ball or [0, 1] */
function checkBudget(
  { id }: PlannedAttack,
  records: readonly EvaluationRecord[],
  { config }: RecordStore,
): void {
  for (const record of records) {
    const { length, within } = budgetOf(record, config);
    const { image, min, max } = record;
    if (!within || !(min >= 0 && max <= 1))
      throw new InputError(
        `attack ${id}: its image ${image} is ${length} away in ${config.norm}, with pixels in [${min}, ${max}]; allowed are ${config.eps} and [0, 1]`,
      );
  }
}

const groupsOf = (rows: readonly number[], size: number) =>
  Array.from({ length: Math.ceil(rows.length / size) }, (_, g) => rows.slice(g * size, (g + 1) * size));

/** Some images of the plan's. */
export function pickImages(device: Device, data: EvaluationImages, rows: readonly number[]): Tensor {
  const [, ...image] = data.shape;
  const size = sizeOf(image);
  const host = new Float32Array(rows.length * size);
  rows.forEach((row, k) => {
    host.set(data.images.subarray(row * size, (row + 1) * size), k * size);
  });
  return device.keep(device.tensor(host, [rows.length, ...image]));
}

export interface AttackedImages {
  /** Numbers of the test set. */
  readonly ids: readonly number[];
  readonly labels: readonly number[];
  /** [N, H, W, C] in [0, 1]. */
  readonly x: Tensor;
}

/**
 * The attack on some images. @param judgeSeeds of the judgements to come
 * @returns null where nothing attacks; the caller disposes of the images, of stages and candidates too
 */
export async function attackImages(
  { defence, batch }: Pick<EvaluationPlan, 'defence' | 'batch'>,
  attack: PlannedAttack,
  seed: number,
  judgeSeeds: readonly number[],
  { ids, labels, x }: AttackedImages,
  onStep?: (part: number) => void,
  other: Parameters<PlannedAttack['make']>[2] = {},
): Promise<(AttackResult & { stages?: readonly Stage[]; candidates?: Tensor }) | null> {
  const made = attack.make(seed, judgeSeeds, other);
  const { on } = attack;
  if (!made || !on) return null;
  const { target: rule } = attack.settings as { target?: TargetRule };
  return made.run(on.target, x, labels, {
    imageIds: ids,
    // An attack fills its batch up, with images that are thrown away.
    batch: Math.min(batch, ids.length),
    // What a part of the defence, or one draw of it, misreads, the defence may not.
    misread: on.decides && !on.target.randomised ? 'left' : 'attacked',
    targets: rule === undefined ? undefined : await targetsOf(rule, defence, { ids, labels, x }, seed),
    onStep: (done, of) => onStep?.(done / of),
  });
}

/** A wanted class an image, never its own. */
async function targetsOf(
  rule: TargetRule,
  { classifier, classes }: Defence,
  { ids, labels, x }: AttackedImages,
  seed: number,
): Promise<number[]> {
  const logits = x.device.scope(() => classifier.logits(x));
  const host = await logits.floats();
  logits.dispose();
  const draws = x.device.scope(() =>
    randomUniform(x.device, [ids.length], {
      seed,
      purpose: streams.wantedClass,
      rows: x.device.tensor(ids, [ids.length], 'u32'),
    }),
  );
  const uniform = await draws.floats();
  draws.dispose();
  return labels.map((label, i) => {
    const row = host.subarray(i * classes, (i + 1) * classes);
    const others = Array.from(row.keys())
      .filter((c) => c !== label)
      .sort((p, q) => (row[q] as number) - (row[p] as number));
    const at = {
      next: 0,
      least: others.length - 1,
      random: Math.floor((uniform[i] as number) * others.length),
    };
    if (typeof rule === 'number' && rule !== label) return rule;
    return others[typeof rule === 'number' ? 0 : at[rule]] as number;
  });
}

async function evaluateBatch(
  device: Device,
  plan: EvaluationPlan,
  attack: PlannedAttack,
  run: number,
  rows: readonly number[],
  onStep: (part: number, what: string) => void,
) {
  const { data, defence, evaluations } = plan;
  const [, ...image] = data.shape;
  const size = sizeOf(image);
  const count = rows.length;
  const ids = rows.map((row) => data.ids[row] as number);
  const labels = rows.map((row) => data.labels[row] as number);
  const began = performance.now();
  const x = pickImages(device, data, rows);
  const seed = attackSeed(plan.seed, run);
  const share = attackWork(attack) / workOfImage(plan, attack);
  const seeds = Array.from({ length: evaluations }, (_, e) => judgeSeed(plan.seed, run, e));
  const result = await attackImages(plan, attack, seed, seeds, { ids, labels, x }, (part) =>
    onStep(share * part, 'attack'),
  );
  const attacked = result?.adversarial ?? x;
  const bare = await classify(defence.classifier, attacked);
  const judged: Vote[][] = [];
  let purified: Tensor | null = null;
  let purification: Judged['purification'];
  for (const [e, own] of seeds.entries()) {
    const each = await defence.judge(attacked, {
      seed: own,
      imageIds: ids,
      looks: e === 0 ? looks : 0,
      onProgress: (part, what) => onStep(share + ((1 - share) * (e + part)) / evaluations, what),
    });
    judged.push(each.votes);
    purification ??= each.purification;
    if (e === 0 && plan.purified) purified = each.purified;
    else each.purified?.dispose();
    onStep(share + ((1 - share) * (e + 1)) / evaluations, 'judge');
  }
  const [clean, points, made] = await Promise.all([x.floats(), attacked.floats(), purified?.floats()]);
  const seconds = (performance.now() - began) / 1000 / count;

  // No name of a file anywhere may hold a colon or a slash.
  const name = attack.id.replace('@', '.').replaceAll(/[^\w.=-]/g, '+');
  const file = `images/${name}-r${run}-${String(ids[0]).padStart(6, '0')}.safetensors`;
  const tensors: Record<string, TensorToWrite> = {};
  if (result || made) tensors.images = { shape: [count], data: Int32Array.from(ids) };
  if (result) tensors.adversarial = { shape: [count, ...image], data: points };
  const stages = result?.stages ?? [];
  for (const stage of stages) {
    const { adversarial } = stage.result;
    const rows = Int32Array.from(stage.images, (i) => ids[i] as number);
    tensors[`${stage.attack}.images`] = { shape: [rows.length], data: rows };
    tensors[`${stage.attack}.adversarial`] = {
      shape: [...adversarial.shape],
      data: await adversarial.floats(),
    };
    adversarial.dispose();
  }
  if (purified && made) tensors.purified = { shape: [...purified.shape], data: made, type: 'F16' };
  const records = ids.map((id, i): EvaluationRecord => {
    const trace = result?.trace[i];
    return {
      schema: 1,
      image: id,
      label: labels[i] as number,
      attack: attack.id,
      surface: attack.surface,
      knowledge: attack.knowledge,
      run,
      seed,
      bare: bare[i] as number,
      evaluationSeeds: seeds,
      labels: judged.map((votes) => votes[i]?.label as number),
      votes: judged.map((votes) => votes[i]?.votes as number[]),
      success: result ? (result.success[i] as boolean) : bare[i] !== labels[i],
      loss: finite(result?.loss[i]),
      trace: { loss: (trace?.loss ?? []).map(finite), hit: trace?.hit ?? [] },
      ...(result?.stages ? { stages: stages.flatMap((stage) => stageOf(stage, i)) } : {}),
      ...distances(clean, points, i * size, size),
      file: result || made ? file : null,
      row: i,
      cost: {
        forward: (result?.passes.forward ?? 0) / count,
        backward: (result?.passes.backward ?? 0) / count,
        defence: evaluations * defence.passes,
        seconds,
        batch: count,
      },
      adapter: `${device.adapter.name}, ${device.adapter.driver}`,
      // Of the batch.
      ...(i === 0 && result && result.notes.length > 0 ? { notes: result.notes } : {}),
      ...(purification
        ? { purification: columns(purification[i] as Purification, labels[i] as number, defence.classes) }
        : {}),
    };
  });
  for (const tensor of [x, result?.adversarial, result?.candidates, purified]) tensor?.dispose();
  return { file, tensors, records };
}

/** What a member of an ensemble did to image i of the batch; nothing where one before it had been enough. */
function stageOf(
  { attack, images, broken, result }: Stage,
  i: number,
): NonNullable<EvaluationRecord['stages']> {
  const row = images.indexOf(i);
  return row < 0 ? [] : [{ attack, broke: broken.includes(i), loss: finite(result.loss[row]) }];
}

/** On the way of an optimisation, about. */
const looks = 20;

type Purification = NonNullable<Judged['purification']>[number];

/** A trace by field. */
function columns({ labels, trace, looks }: Purification, label: number, classes: number): PurificationRecord {
  const of = (field: keyof TraceEntry) => trace.map((entry) => finite(entry[field]));
  return {
    labels,
    mae: of('mae'),
    ssim: of('ssim'),
    constraint: of('constraint'),
    latentMean: of('latentMean'),
    latentStd: of('latentStd'),
    looked: looks.map((look) => look.iteration),
    voted: looks.map((look) => countVotes(look.labels, classes).label),
    right: looks.map((look) => mean(look.labels.map((own) => Number(own === label)))),
  };
}

/** Six digits, and null for what JSON cannot say. */
function finite(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? Number(value.toPrecision(6)) : null;
}

/** ‖δ‖ in all norms and the range, in double precision. */
export function distances(clean: Float32Array, points: Float32Array, from: number, size: number) {
  let [linf, l1, square, min, max] = [0, 0, 0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let k = from; k < from + size; k++) {
    const v = points[k] as number;
    const d = Math.abs(v - (clean[k] as number));
    linf = Math.max(linf, d);
    l1 += d;
    square += d * d;
    min = Math.min(min, v);
    max = Math.max(max, v);
  }
  return { linf, l2: Math.sqrt(square), l1, min, max };
}

/** ‖δ‖ in an evaluation's norm, and whether that lies within eps. */
export function budgetOf(
  { linf, l2, l1 }: Pick<EvaluationRecord, 'linf' | 'l2' | 'l1'>,
  { norm, eps }: Pick<EvaluationConfig, 'norm' | 'eps'>,
) {
  const length = { Linf: linf, L2: l2, L1: l1 }[norm];
  // 1e-7 is one unit in the last place of a pixel near 1. A length over many pixels gathers more of them, relative to itself.
  const slack = norm === 'Linf' ? 1e-7 : 1e-7 + 2e-5 * eps;
  return { length, within: length <= eps + slack };
}

export interface CostEstimate {
  /** Network evaluations an image: of the attacks on their surfaces at most, and of the judgements. */
  readonly attack: number;
  readonly judgement: number;
  readonly seconds: number;
  /** Of the measurement. */
  readonly images: number;
}

/** Times a few evaluations of each surface and a judgement, and multiplies. */
export async function estimateCost(device: Device, plan: EvaluationPlan): Promise<CostEstimate> {
  const { data, defence, attacks, runs, evaluations } = plan;
  const n = data.ids.length;
  // A judgement is measured as it will be made.
  const rows = Array.from({ length: Math.min(n, batchOf(plan, noAttack)) }, (_, i) => i);
  const x = pickImages(device, data, rows);
  const labels = rows.map((row) => data.labels[row] as number);
  const timed = async (f: () => Promise<unknown>) => {
    const began = performance.now();
    await f();
    return (performance.now() - began) / 1000;
  };
  try {
    const bySurface = new Map<AttackSurface, number>();
    for (const { on, passes } of attacks) {
      // A surface that runs the defence asks the network of a judgement, which is measured below.
      if (!on || passes === 0 || on.cost !== undefined || bySurface.has(on)) continue;
      const { target } = on;
      const steps = async (count: number) => {
        const probe = new Pgd({ eps: 0.01, steps: count, stepSize: 0.01, randomStart: false, seed: 0 });
        const result = await probe.run(target, x, labels, { batch: rows.length });
        result.adversarial.dispose();
      };
      await steps(1); // compiles
      // Four evaluations, forward and backward.
      bySurface.set(on, (await timed(() => steps(3))) / 8 / rows.length);
    }
    const imageIds = rows.map((row) => data.ids[row] as number);
    const judge = async () => (await defence.judge(x, { seed: plan.seed, imageIds })).purified?.dispose();
    if (!defence.estimate) await judge();
    const judgement = (await (defence.estimate ? defence.estimate(x) : timed(judge))) / rows.length;
    let [attack, judgements, seconds] = [0, 0, 0];
    for (const planned of attacks) {
      const times = runsOf(planned, runs);
      const { on, passes, inside } = planned;
      attack += times * attackWork(planned);
      judgements += times * evaluations;
      const own = judgement / defence.passes;
      const asked = (on && bySurface.get(on)) ?? own;
      seconds += times * (passes * asked + inside * own + evaluations * judgement);
    }
    return { attack, judgement: judgements * defence.passes, seconds: n * seconds, images: rows.length };
  } finally {
    x.dispose();
  }
}
