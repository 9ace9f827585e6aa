/** What an attack asks at the clean images before it begins. */
import type { Job, Slots } from './attack.ts';
import type { Query } from './target.ts';

/**
 * Marks images that are misclassified without an attack as fooled, by the clean image itself.
 * @returns each image's classes by falling logit
 */
export async function dropFooled(job: Job, slots: Slots, query: Query, classes: number): Promise<number[][]> {
  const ranked = new Array<number[]>(job.count);
  for (const images of job.batches(job.ids.map((_, i) => i))) {
    slots.load(images);
    slots.x.write(slots.rows(job.x));
    query.restart();
    await query.forwardPass();
    const logits = await query.logits.floats();
    images.forEach((i, b) => {
      const row = logits.subarray(b * classes, (b + 1) * classes);
      // The sort is stable: of equal logits the first class comes first.
      ranked[i] = Array.from(row.keys()).sort((p, q) => (row[q] as number) - (row[p] as number));
      job.success[i] = ranked[i]?.[0] !== job.labels[i];
    });
  }
  return ranked;
}
