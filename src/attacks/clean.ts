/** What attacks ask at the clean images before they begin, and how they go over those that remain. */
import { type AttackHooks, type Job, notNumbers, type Slots } from './attack.ts';
import type { Query } from './query.ts';

/**
 * Marks images that are misclassified without an attack as fooled, by the clean image itself, where such are left.
 * @returns each image's other classes by falling logit
 * @throws InputError where the target gives NaN: no attack has done that
 */
export async function dropFooled(job: Job, slots: Slots, query: Query): Promise<number[][]> {
  const classes = query.logits.shape[1] as number;
  const ranked = new Array<number[]>(job.count);
  for (const images of job.batches(job.all)) {
    slots.load(images);
    slots.x.write(slots.rows(job.x));
    query.restart();
    await query.forwardPass();
    const logits = await query.logits.floats();
    images.forEach((i, b) => {
      const row = logits.subarray(b * classes, (b + 1) * classes);
      if (row.some(Number.isNaN)) throw notNumbers(job.name, job.ids[i] as number);
      // The sort is stable: of equal logits the first class comes first.
      const order = Array.from(row.keys()).sort((p, q) => (row[q] as number) - (row[p] as number));
      ranked[i] = order.filter((c) => c !== job.labels[i]);
      job.success[i] = job.misread === 'left' && order[0] !== job.labels[i];
    });
  }
  job.asked = true;
  return ranked;
}

/**
 * Runs of an attack over the images that were not fooled yet; over all of them where misread ones are attacked, because a
 * success there is not the defence's word. Each batch is loaded into the slots, its randomness begun anew.
 * @param steps iterations of one batch in one run
 */
export async function eachRemaining(
  job: Job,
  slots: Slots,
  query: Query,
  { runs, steps, onStep }: { readonly runs: number; readonly steps: number } & Pick<AttackHooks, 'onStep'>,
  attack: (images: readonly number[], run: number, onIteration: (t: number) => void) => Promise<void>,
): Promise<void> {
  for (let run = 0; run < runs; run++) {
    const batches = job.batches(job.misread === 'left' ? job.remaining : job.all);
    for (const [at, images] of batches.entries()) {
      slots.load(images);
      query.restart(run);
      await attack(images, run, (t) =>
        onStep?.((run + at / batches.length) * steps + t / batches.length, runs * steps),
      );
    }
  }
}
