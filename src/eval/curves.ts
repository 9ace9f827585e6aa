/** Curves from the traces of attacks and of purification. */

import { mean } from '../report/statistics.ts';
import type { EvaluationRecord, PurificationRecord } from './store.ts';

/**
 * Share of the records whose attack had met its goal at least once (in at least half of the draws) up to each
 * evaluation of its surface. Shorter traces keep their last value.
 */
export function fooledBy(records: readonly EvaluationRecord[]): number[] {
  const length = records.reduce((most, r) => Math.max(most, r.trace.hit.length), 0);
  const counts = new Array<number>(length).fill(0);
  for (const { trace } of records) {
    const at = trace.hit.findIndex((hit) => hit >= 0.5);
    if (at >= 0) for (let t = at; t < length; t++) counts[t]!++;
  }
  return counts.map((count) => count / Math.max(1, records.length));
}

/** A trace that says how the K images would be judged on the way. */
interface VotedRecord extends PurificationRecord {
  /** An entry an iteration: the vote's label of the images made in it, null where they were not classified. */
  readonly voted?: readonly (number | null)[];
}

/** Share of the records that the vote has right at each iteration at which it was taken; empty without such traces. */
export function accuracyByIteration(records: readonly EvaluationRecord[]): {
  iterations: number[];
  accuracy: number[];
} {
  const right: number[][] = [];
  for (const { label, purification } of records)
    (purification as VotedRecord | undefined)?.voted?.forEach((vote, t) => {
      if (vote === null) return;
      right[t] ??= [];
      right[t].push(vote === label ? 1 : 0);
    });
  const iterations = Object.keys(right).map(Number);
  return { iterations, accuracy: iterations.map((t) => mean(right[t] as number[])) };
}
