/**
 * Evaluations read back by those who show them. Files may have been cut short, edited, or left by another version: every
 * field that a table or picture takes is checked first, so that what is wrong is one line and never a wrong number.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { brief, InputError } from '../engine/errors.ts';
import { readJson } from '../formats/read.ts';
import type { EvaluationSummary } from './metrics.ts';
import { type EvaluationConfig, type EvaluationRecord, keyOf, readConfig, readEvaluation } from './store.ts';

export interface StoredEvaluation {
  readonly config: EvaluationConfig;
  readonly records: readonly EvaluationRecord[];
}

export interface FinishedEvaluation extends StoredEvaluation {
  readonly summary: EvaluationSummary;
}

/** The command that makes what a folder lacks. */
export const resume = (folder: string) => `cmap eval --resume --out ${folder}`;

/** Finished or not. @throws InputError */
export function readStored(folder: string): StoredEvaluation {
  const config = checkedConfig(folder);
  const { records } = readEvaluation(folder);
  const path = join(folder, 'records.jsonl');
  records.forEach((record, i) => {
    const wrong = aRecord(record, '');
    if (wrong) throw new InputError(`${path}: line ${i + 1}: ${wrong}; the file was changed`);
  });
  return { config, records };
}

/** @throws InputError when a folder holds no finished evaluation, or a summary that is not of it */
export function readSummary(folder: string): EvaluationSummary {
  const config = checkedConfig(folder);
  const path = join(folder, 'summary.json');
  if (!existsSync(path))
    throw new InputError(`${folder}: the evaluation is not finished; ${resume(folder)} goes on`);
  const summary = readJson(path);
  const wrong = aSummary(summary, '') ?? disagreement(summary as EvaluationSummary, config);
  if (wrong)
    throw new InputError(
      `${path}: not the summary of this evaluation: ${wrong}; ${resume(folder)} writes it anew`,
    );
  return summary as EvaluationSummary;
}

/** @throws InputError when a folder holds no finished evaluation, or lacks records of it */
export function readFinished(folder: string): FinishedEvaluation {
  const summary = readSummary(folder);
  const { config, records } = readStored(folder);
  const known = new Set(records.map(keyOf));
  for (const [attack, { kind }] of Object.entries(config.attacks))
    for (let run = 0; run < (kind === 'none' ? 1 : config.runs); run++)
      for (const image of config.images)
        if (!known.has(keyOf({ image, attack, run })))
          throw new InputError(
            `${join(folder, 'records.jsonl')}: no record of image ${image} under ${attack}, run ${run}; ${resume(folder)} makes it`,
          );
  return { config, records, summary };
}

function checkedConfig(folder: string): EvaluationConfig {
  const config = readConfig(folder);
  const wrong = aConfig(config, '') ?? (Object.hasOwn(config.attacks, 'none') ? null : 'attacks lacks none');
  if (wrong) throw new InputError(`${join(folder, 'config.json')}: ${wrong}; the file was changed`);
  return config;
}

/** Where a summary tells of another evaluation than the configuration. */
function disagreement(summary: EvaluationSummary, config: EvaluationConfig): string | null {
  const told: Record<string, [unknown, unknown]> = {
    schema: [summary.schema, 1],
    dataset: [summary.dataset, config.dataset],
    classifier: [summary.classifier, config.classifier.name],
    defence: [summary.defence, config.defence.name],
    norm: [summary.norm, config.norm],
    eps: [summary.eps, config.eps],
    count: [summary.count, config.images.length],
    attacks: [Object.keys(summary.attacks).join(), Object.keys(config.attacks).join()],
  };
  const [name, values] = Object.entries(told).find(([, [found, wanted]]) => found !== wanted) ?? [];
  return values ? `${name} is ${brief(values[0])}, wanted ${brief(values[1])}` : null;
}

/** What is wrong with a value, and where; null when nothing is. */
type Check = (value: unknown, path: string) => string | null;

const is =
  (wanted: string, holds: (value: unknown) => boolean): Check =>
  (value, path) =>
    holds(value) ? null : `${path || 'it'} is ${brief(value)}, wanted ${wanted}`;
const orElse =
  (other: (value: unknown) => boolean, check: Check): Check =>
  (value, path) =>
    other(value) ? null : check(value, path);
const orNull = (check: Check) => orElse((value) => value === null, check);
const optional = (check: Check) => orElse((value) => value === undefined, check);

function firstWrong(entries: Iterable<readonly [string | number, Check, unknown]>, path: string) {
  for (const [key, check, value] of entries) {
    const wrong = check(value, path ? `${path}.${key}` : String(key));
    if (wrong) return wrong;
  }
  return null;
}
const anObject = is('an object', (v) => typeof v === 'object' && v !== null && !Array.isArray(v));
const fields =
  (checks: Readonly<Record<string, Check>>): Check =>
  (value, path) =>
    anObject(value, path) ??
    firstWrong(
      Object.entries(checks).map(([key, check]) => [key, check, (value as Record<string, unknown>)[key]]),
      path,
    );
const byName =
  (check: Check): Check =>
  (value, path) =>
    anObject(value, path) ??
    firstWrong(
      Object.entries(value as object).map(([key, each]) => [key, check, each]),
      path,
    );
const list =
  (check: Check, least = 0): Check =>
  (value, path) =>
    Array.isArray(value) && value.length >= least
      ? firstWrong(
          value.map((each, i) => [i, check, each]),
          path,
        )
      : `${path} is ${brief(value)}, wanted a list${least > 0 ? ' that is not empty' : ''}`;

const text = is('text', (v) => typeof v === 'string');
const number = is('a number', Number.isFinite);
const natural = is('an integer of 0 or more', (v) => Number.isInteger(v) && (v as number) >= 0);
const positive = is('a positive integer', (v) => Number.isInteger(v) && (v as number) > 0);
const proportion = is('a number of 0 to 1', (v) => typeof v === 'number' && v >= 0 && v <= 1);
const interval = is(
  'two numbers of 0 to 1',
  (v) => Array.isArray(v) && v.length === 2 && v.every((x) => proportion(x, '') === null),
);
const flag = is('true or false', (v) => typeof v === 'boolean');
const share = fields({ value: proportion, interval });
const network = fields({ name: text, sha256: text });

const aConfig = fields({
  dataset: text,
  images: list(natural, 1),
  classifier: network,
  generator: orNull(network),
  defence: fields({ name: text, settings: anObject }),
  norm: text,
  eps: number,
  runs: positive,
  evaluations: positive,
  attacks: byName(fields({ kind: text, surface: text, knowledge: text, settings: anObject })),
});

const aSummary = fields({
  dataset: text,
  classifier: text,
  defence: text,
  norm: text,
  eps: number,
  count: positive,
  runs: positive,
  evaluations: positive,
  seed: natural,
  clean: proportion,
  cleanInterval: interval,
  standard: proportion,
  standardInterval: interval,
  robust: proportion,
  robustInterval: interval,
  robustStd: orNull(number),
  worst: share,
  attacks: byName(
    fields({
      robust: proportion,
      interval,
      std: orNull(number),
      worst: share,
      majority: share,
      success: orNull(share),
      surfaceRobust: proportion,
      bare: proportion,
      surface: text,
      knowledge: text,
      linf: number,
      l2: number,
      l1: number,
      forward: number,
      backward: number,
      defence: number,
      secondsAnImage: number,
    }),
  ),
});

const trace = list(orNull(number));
const aRecord = fields({
  image: natural,
  label: natural,
  attack: text,
  run: natural,
  bare: natural,
  labels: list(natural, 1),
  votes: list(list(natural), 1),
  success: flag,
  trace: fields({ hit: list(number) }),
  linf: number,
  file: orNull(text),
  row: natural,
  purification: optional(
    fields({
      labels: list(natural),
      mae: trace,
      ssim: trace,
      constraint: trace,
      latentMean: trace,
      latentStd: trace,
      looked: optional(list(natural)),
      voted: optional(list(natural)),
    }),
  ),
});
