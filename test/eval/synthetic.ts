/** Evaluations without networks: configurations and records by hand, and folders of them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { summarise } from '../../src/eval/metrics.ts';
import type { EvaluationConfig, EvaluationRecord } from '../../src/eval/store.ts';

export function configOf(
  images: number[],
  attacks: EvaluationConfig['attacks'],
  evaluations = 1,
): EvaluationConfig {
  return {
    schema: 1,
    dataset: 'fashion-mnist',
    images,
    classifier: { name: 'wrn', sha256: 'a' },
    generator: null,
    defence: { name: 'none', settings: {} },
    norm: 'Linf',
    eps: 16 / 255,
    seed: 0,
    runs: 1,
    evaluations,
    attacks,
  };
}

export function record(image: number, attack: string, labels: number[], more: object = {}): EvaluationRecord {
  return {
    schema: 1,
    image,
    label: 1,
    attack,
    surface: 'classifier',
    knowledge: 'adaptive',
    run: 0,
    seed: 0,
    bare: labels[0] as number,
    evaluationSeeds: labels.map((_, e) => e),
    labels,
    votes: labels.map(() => [0, 1]),
    success: labels[0] !== 1,
    loss: 0,
    trace: { loss: [], hit: [] },
    linf: 0,
    l1: 0,
    l2: 0,
    min: 0,
    max: 1,
    file: null,
    row: 0,
    cost: { forward: 1, backward: 1, defence: 1, seconds: 1, batch: 1 },
    adapter: 'test',
    ...more,
  };
}

export const kind = (name: string, knowledge: 'adaptive' | 'transfer' = 'adaptive') => ({
  kind: name,
  surface: 'classifier',
  knowledge,
  settings: {},
});

/** The folder of a finished evaluation. */
export function writeFolder(
  folder: string,
  config: EvaluationConfig,
  records: readonly EvaluationRecord[],
): string {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  writeFileSync(join(folder, 'records.jsonl'), records.map((r) => `${JSON.stringify(r)}\n`).join(''));
  writeFileSync(join(folder, 'summary.json'), JSON.stringify(summarise(config, records)));
  return folder;
}
