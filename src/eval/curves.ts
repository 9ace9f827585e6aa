/** Curves from the traces of attacks and of purification. */

import { mean } from '../report/statistics.ts';
import type { EvaluationRecord } from './store.ts';

/**
 * Share of the records whose attack had met its goal at least once (in at least half of the draws) up to each
 * evaluation of its surface; from the start where it had nothing to do. Shorter traces keep their last value.
 */
export function fooledBy(records: readonly EvaluationRecord[]): number[] {
  const length = records.reduce((most, r) => Math.max(most, r.trace.hit.length), 0);
  const counts = new Array<number>(length).fill(0);
  for (const { trace, success } of records) {
    const at = success && trace.hit.length === 0 ? 0 : trace.hit.findIndex((hit) => hit >= 0.5);
    if (at >= 0) for (let t = at; t < length; t++) counts[t]!++;
  }
  return counts.map((count) => count / Math.max(1, records.length));
}

/** Share of the records that the vote has right at each iteration at which it was taken; empty without such traces. */
export function accuracyByIteration(records: readonly EvaluationRecord[]): {
  iterations: number[];
  accuracy: number[];
} {
  const right: number[][] = [];
  // Records of before have no looks.
  for (const { label, purification } of records)
    purification?.looked?.forEach((t, j) => {
      const vote = purification.voted?.[j];
      if (vote === undefined) return;
      right[t] ??= [];
      right[t].push(vote === label ? 1 : 0);
    });
  const iterations = Object.keys(right).map(Number);
  return { iterations, accuracy: iterations.map((t) => mean(right[t] as number[])) };
}
