/** What the random numbers of an evaluation begin with. */
import { InputError } from '../engine/errors.ts';
import type { EvaluationConfig, EvaluationRecord } from './store.ts';

/** Seeds that are neighbours lie far apart, so that their runs do not share draws; 0 stays 0. In 0..2^40 − 1, one to one. */
const scattered = (seed: number) => Number(BigInt.asUintN(40, BigInt(seed) * 0x9e3779b97f4a7c15n));
/** Seeds of attacks are below 2^40, those of judgements from there to 2^41. */
export const attackSeed = (seed: number, run: number) => (scattered(seed) + run) % 2 ** 40;
export const judgeSeed = (seed: number, run: number, evaluation: number) =>
  2 ** 40 + ((scattered(seed) + run * 2 ** 20 + evaluation) % 2 ** 40);
/** Largest --seed. */
export const mostSeed = 2 ** 40 - 1;

/** @throws InputError for records that were made by another rule, with which new ones cannot be compared */
export function checkSeeds(
  folder: string,
  { seed }: EvaluationConfig,
  records: readonly EvaluationRecord[],
): void {
  const strange = records.find((record) => record.seed !== attackSeed(seed, record.run));
  if (strange)
    throw new InputError(
      `${folder}: image ${strange.image} under ${strange.attack} was attacked with seed ${strange.seed}, of --seed ${seed} this version makes ${attackSeed(seed, strange.run)}; evaluate anew into another --out`,
    );
}
