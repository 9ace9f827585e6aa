/**
 * Transfer from another evaluation: its adversarial images are shown to this defence. Of each image that is taken which
 * its own defence got wrong most often, of equal ones the first; so the attacks need not be run again, and what breaks one
 * defence is tried on another (Croce & Hein 2020 ask it of every defence).
 */
import {
  type Attack,
  type AttackHooks,
  type AttackResult,
  Job,
  lengthOf,
  type Norm,
  Slots,
} from '../attacks/attack.ts';
import { marginOf } from '../attacks/autoattack.ts';
import { Query } from '../attacks/query.ts';
import { fraction } from '../attacks/spec.ts';
import type { Target } from '../attacks/target.ts';
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { mean } from '../report/statistics.ts';
import { type EvaluationRecord, isAttacked, readAdversarial, readEvaluation } from './store.ts';

export class Replay implements Attack {
  readonly name = 'transfer';
  readonly #images = new Map<number, EvaluationRecord>();

  /** @param folder of cmap eval, in the same norm, with at most this eps @throws InputError */
  constructor(
    readonly folder: string | undefined,
    readonly norm: Norm,
    readonly eps: number,
  ) {
    if (folder === undefined)
      throw new InputError('attack transfer: the folder is missing; write transfer:from=DIR');
    const { config, records } = readEvaluation(folder);
    if (config.norm !== norm || config.eps > eps + 1e-9)
      throw new InputError(
        `attack transfer: ${folder} is of ${config.norm} eps ${fraction(config.eps)}, this evaluation of ${norm} ${fraction(eps)}; take one within this ball`,
      );
    const wrong = (r: EvaluationRecord) => mean(r.labels.map((label) => Number(label !== r.label)));
    for (const record of records) {
      if (!isAttacked(record)) continue;
      const known = this.#images.get(record.image);
      if (!known || wrong(record) > wrong(known)) this.#images.set(record.image, record);
    }
    if (this.#images.size === 0)
      throw new InputError(`attack transfer: ${folder} holds no attacked images; evaluate an attack there`);
  }

  /** @throws InputError for images that the folder has not, by their numbers in the test set */
  checkImages(ids: readonly number[]): void {
    const missing = ids.filter((id) => !this.#images.has(id));
    if (missing.length > 0)
      throw new InputError(
        `attack transfer: ${this.folder} has no image ${missing[0]}, ${missing.length} of ${ids.length} are missing; evaluate the same images`,
      );
  }

  async run(
    target: Target,
    x: Tensor,
    labels: readonly number[],
    hooks: AttackHooks = {},
  ): Promise<AttackResult> {
    const job = await Job.open(this.name, target, x, labels, this, hooks);
    this.checkImages(job.ids);
    const found = job.ids.map((id) => this.#images.get(id) as EvaluationRecord);
    const points = readAdversarial(this.folder as string, found);
    const { size } = job;
    points.forEach((point, i) => {
      const clean = job.x.subarray(i * size, (i + 1) * size);
      const length = point.length === size ? lengthOf(this.norm, point, clean) : Number.POSITIVE_INFINITY;
      if (length > this.eps + 1e-6)
        throw new InputError(
          `attack transfer: image ${job.ids[i]} of ${this.folder} lies ${length.toPrecision(4)} from this one, eps is ${fraction(this.eps)}; it is of another data set`,
        );
      job.keep(i, point, 0, 0);
    });
    const slots = new Slots(job);
    const query = new Query(target, slots, { loss: null, goal: 'untargeted' });
    try {
      for (const images of job.batches(job.all)) {
        slots.load(images);
        slots.x.write(slots.rows(job.adversarial));
        await query.forwardPass();
        const [logits, hits] = await Promise.all([query.logits.floats(), query.hit.floats()]);
        const classes = logits.length / slots.batch;
        images.forEach((i, b) => {
          const row = logits.subarray(b * classes, (b + 1) * classes);
          job.success[i] = (hits[b] as number) >= 0.5;
          job.loss[i] = -marginOf(row, labels[i] as number);
          job.trace[i]?.loss.push(job.loss[i] as number);
          job.trace[i]?.hit.push(hits[b] as number);
        });
      }
      return job.result(query.passes);
    } finally {
      for (const part of [query, slots]) part.dispose();
    }
  }
}
