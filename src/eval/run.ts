/**
 * The evaluation: every attack on every image, every attacked image before the whole defence, a line each. Images go
 * through in batches; all random numbers are keyed by an image's number in the test set, by the run and by what they
 * are for, so that results depend neither on the batch nor on the order, nor on how often the work was interrupted.
 */
import type { AttackResult } from '../attacks/attack.ts';
import { Pgd } from '../attacks/pgd.ts';
import type { TraceEntry } from '../cmap/purify.ts';
import { classify, type Vote } from '../cmap/vote.ts';
import type { Defence, Judged } from '../defences/defence.ts';
import type { Device } from '../engine/device.ts';
import { check } from '../engine/errors.ts';
import { sizeOf, type Tensor } from '../engine/tensor.ts';
import type { TensorToWrite } from '../formats/safetensors.ts';
import type { PlannedAttack } from './attacks.ts';
import { type EvaluationSummary, summarise } from './metrics.ts';
import type { EvaluationRecord, PurificationRecord, RecordStore } from './store.ts';

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
  /** Images together: what a kill loses at most. */
  readonly batch: number;
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

const workOfImage = ({ evaluations, defence }: EvaluationPlan, attack: PlannedAttack) =>
  attack.passes + evaluations * defence.passes;

/** Seeds of attacks and of judgements never meet. */
export const attackSeed = (seed: number, run: number) => seed + run;
export const judgeSeed = (seed: number, run: number, evaluation: number) =>
  seed + 2 ** 40 + run * 2 ** 20 + evaluation;
/** Largest --seed. */
export const mostSeed = 2 ** 40 - 2 ** 20;

/** Runs of an attack: what draws nothing is not repeated. */
export const runsOf = (attack: PlannedAttack, runs: number) => (attack.kind === 'none' ? 1 : runs);

/** Does what the store lacks. @returns the metrics, which the caller stores */
export async function runEvaluation(
  device: Device,
  plan: EvaluationPlan,
  store: RecordStore,
  hooks: EvaluationRunHooks = {},
): Promise<EvaluationSummary> {
  const { data, attacks, runs, batch } = plan;
  const n = data.ids.length;
  const total = workOf(plan);
  let done = 0;
  const notes = new Set<string>();
  for (const attack of attacks) {
    const work = workOfImage(plan, attack);
    for (let run = 0; run < runsOf(attack, runs); run++) {
      const missing = data.ids
        .map((_, i) => i)
        .filter((i) => !store.has(data.ids[i] as number, attack.id, run));
      done += work * (n - missing.length);
      for (let from = 0; from < missing.length; from += batch) {
        const rows = missing.slice(from, from + batch);
        const name = `${attack.id}${runs > 1 ? ` run ${run + 1}` : ''}`;
        const onStep = (part: number, what: string) =>
          hooks.onProgress?.(done + part * work * rows.length, total, `${name}, ${what}`);
        const found = await evaluateBatch(device, plan, attack, run, rows, onStep);
        for (const note of found.notes) notes.add(`${attack.id}: ${note}`);
        store.append(found.file, found.tensors, found.records);
        done += work * rows.length;
        hooks.onProgress?.(done, total, name);
      }
    }
  }
  return summarise(store.config, store.records.values(), { notes: [...notes] });
}

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

/** The attack on some images. @returns null where nothing attacks */
export async function attackImages(
  plan: Pick<EvaluationPlan, 'defence' | 'batch'>,
  attack: PlannedAttack,
  seed: number,
  x: Tensor,
  labels: readonly number[],
  imageIds: readonly number[],
  onStep?: (part: number) => void,
  other: Parameters<PlannedAttack['make']>[1] = {},
): Promise<AttackResult | null> {
  const made = attack.make(seed, other);
  if (!made) return null;
  const surface = plan.defence.surfaces[attack.surface];
  check(surface, () => `${attack.id}: no surface ${attack.surface}`);
  const result = await made.run(surface.target, x, labels, {
    imageIds,
    // An attack fills its batch up, with images that are thrown away.
    batch: Math.min(plan.batch, imageIds.length),
    onStep: (done, of) => onStep?.(done / of),
  });
  if ('stages' in result)
    for (const stage of result.stages as { result: AttackResult }[]) stage.result.adversarial.dispose();
  return result;
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
  const share = attack.passes / workOfImage(plan, attack);
  const result = await attackImages(plan, attack, seed, x, labels, ids, (part) =>
    onStep(share * part, 'attack'),
  );
  const attacked = result?.adversarial ?? x;
  const bare = await classify(defence.classifier, attacked);
  const seeds = Array.from({ length: evaluations }, (_, e) => judgeSeed(plan.seed, run, e));
  const judged: Vote[][] = [];
  let purified: Tensor | null = null;
  let purification: Judged['purification'];
  for (const [e, own] of seeds.entries()) {
    const each = await defence.judge(attacked, {
      seed: own,
      imageIds: ids,
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

  const name = attack.id.replace('@', '.');
  const file = `images/${name}-r${run}-${String(ids[0]).padStart(6, '0')}.safetensors`;
  const tensors: Record<string, TensorToWrite> = {};
  if (result || made) tensors.images = { shape: [count], data: Int32Array.from(ids) };
  if (result) tensors.adversarial = { shape: [count, ...image], data: points };
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
      ...distances(clean, points, i * size, size),
      file: result ? file : null,
      row: i,
      cost: {
        forward: (result?.passes.forward ?? 0) / count,
        backward: (result?.passes.backward ?? 0) / count,
        defence: evaluations * defence.passes,
        seconds,
        batch: count,
      },
      adapter: `${device.adapter.name}, ${device.adapter.driver}`,
      ...(purification ? { purification: columns(purification[i] as Purification) } : {}),
    };
  });
  for (const tensor of [x, result?.adversarial, purified]) tensor?.dispose();
  return { file, tensors, records, notes: result?.notes ?? [] };
}

type Purification = NonNullable<Judged['purification']>[number];

/** A trace by field. */
function columns({ labels, trace }: Purification): PurificationRecord {
  const of = (field: keyof TraceEntry) => trace.map((entry) => finite(entry[field]));
  return {
    labels,
    mae: of('mae'),
    ssim: of('ssim'),
    constraint: of('constraint'),
    latentMean: of('latentMean'),
    latentStd: of('latentStd'),
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
  const rows = Array.from({ length: Math.min(n, plan.batch) }, (_, i) => i);
  const x = pickImages(device, data, rows);
  const labels = rows.map((row) => data.labels[row] as number);
  const timed = async (f: () => Promise<unknown>) => {
    const began = performance.now();
    await f();
    return (performance.now() - began) / 1000;
  };
  try {
    const bySurface = new Map<string, number>();
    for (const { surface } of attacks) {
      if (surface === '' || bySurface.has(surface)) continue;
      const { target } = defence.surfaces[surface] as Defence['surfaces'][string];
      const steps = async (count: number) => {
        const probe = new Pgd({ eps: 0.01, steps: count, stepSize: 0.01, randomStart: false, seed: 0 });
        const result = await probe.run(target, x, labels, { batch: plan.batch });
        result.adversarial.dispose();
      };
      await steps(1); // compiles
      // Four evaluations, forward and backward.
      bySurface.set(surface, (await timed(() => steps(3))) / 8 / rows.length);
    }
    const imageIds = rows.map((row) => data.ids[row] as number);
    const judge = async () => (await defence.judge(x, { seed: plan.seed, imageIds })).purified?.dispose();
    if (!defence.estimate) await judge();
    const judgement = (await (defence.estimate ? defence.estimate(x) : timed(judge))) / rows.length;
    let [attack, judgements, seconds] = [0, 0, 0];
    for (const planned of attacks) {
      const times = runsOf(planned, runs);
      attack += times * planned.passes;
      judgements += times * evaluations;
      seconds += times * (planned.passes * (bySurface.get(planned.surface) ?? 0) + evaluations * judgement);
    }
    return { attack, judgement: judgements * defence.passes, seconds: n * seconds, images: rows.length };
  } finally {
    x.dispose();
  }
}
