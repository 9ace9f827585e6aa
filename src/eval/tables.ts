/** Summaries as rows of tables: what `cmap table` shows. */
import { fraction } from '../attacks/spec.ts';
import { InputError } from '../engine/errors.ts';
import type { Comparison, EvaluationSummary } from './metrics.ts';

export interface RobustnessTable {
  readonly headings: readonly string[];
  readonly rows: readonly (readonly Cell[])[];
}

/** Text, or a proportion with its interval and, over several runs, its standard deviation. */
export type Cell =
  | string
  | {
      readonly value: number;
      readonly interval: readonly [number, number];
      readonly std?: number | null;
      /** Of attacks none of which knows this defence. */
      readonly transfer?: boolean;
    };

/** Where a row of a robustness table says norm and eps; text stands up to there. */
export const threatColumn = 3;

/** A row an evaluation: accuracies in the order clean, standard, each attack, per-sample worst case, worst of N. */
export function robustnessTable(summaries: readonly EvaluationSummary[]): RobustnessTable {
  const names = [...new Set(summaries.flatMap((s) => Object.keys(s.attacks)))].filter((a) => a !== 'none');
  const attacksOf = (s: EvaluationSummary) => names.flatMap((name) => s.attacks[name] ?? []);
  const blind = (s: EvaluationSummary) =>
    attacksOf(s).length > 0 && attacksOf(s).every(({ knowledge }) => knowledge === 'transfer');
  return {
    headings: [
      'data set',
      'classifier',
      'defence',
      'threat',
      'n',
      'clean',
      'standard',
      ...names,
      'all attacks',
      'worst of N',
    ],
    rows: summaries.map((s) => [
      s.dataset,
      s.classifier,
      s.defence,
      `${s.norm} ${fraction(s.eps)}`,
      String(s.count),
      { value: s.clean, interval: s.cleanInterval },
      { value: s.standard, interval: s.standardInterval },
      ...names.map((name): Cell => {
        const a = s.attacks[name];
        if (!a) return '';
        return {
          ...{ value: a.robust, interval: a.interval, std: a.std },
          transfer: a.knowledge === 'transfer',
        };
      }),
      // What nothing attacked is not robust.
      Object.keys(s.attacks).length > 1
        ? { value: s.robust, interval: s.robustInterval, std: s.robustStd, transfer: blind(s) }
        : '',
      { value: s.worst.value, interval: s.worst.interval, transfer: blind(s) },
    ]),
  };
}

/** Every number of every attack, a line each: for other programs. */
export function longTable(summaries: readonly EvaluationSummary[]): { headings: string[]; rows: string[][] } {
  const headings = [
    ...['dataset', 'classifier', 'defence', 'norm', 'eps', 'n', 'seed', 'attack', 'surface', 'knowledge'],
    ...['runs', 'evaluations', 'clean', 'robust', 'low', 'high', 'std', 'worst_of_n', 'majority'],
    ...[
      'success_rate',
      'surface_robust',
      'bare',
      'linf',
      'l2',
      'l1',
      'forward',
      'backward',
      'defence_passes',
    ],
    'seconds_an_image',
  ];
  const rows = summaries.flatMap((s) =>
    Object.entries(s.attacks).map(([name, a]) =>
      [
        ...[s.dataset, s.classifier, s.defence, s.norm, s.eps, s.count, s.seed, name, a.surface],
        name === 'none' ? '' : a.knowledge,
        ...[s.runs, s.evaluations, s.clean, a.robust, ...a.interval, a.std ?? '', a.worst.value],
        ...[a.majority.value, a.success?.value ?? '', a.surfaceRobust, a.bare, a.linf, a.l2, a.l1],
        ...[a.forward, a.backward, a.defence, a.secondsAnImage],
      ].map(String),
    ),
  );
  return { headings, rows };
}

/** Two evaluations by name, compared. */
export interface Pair extends Comparison {
  readonly first: string;
  readonly second: string;
}

/** A row a paired test; a pair that is not tested has one that says why. @param exact every digit of p */
export function pairedTable(pairs: readonly Pair[], exact = false): { headings: string[]; rows: string[][] } {
  const headings = ['first', 'second', 'attack', 'n', 'runs', 'first better', 'second better', 'p', 'note'];
  const probability = (p: number) => (exact ? String(p) : p < 1e-4 ? p.toExponential(1) : p.toFixed(4));
  const rows = pairs.flatMap(({ first, second, refusal, tests }) =>
    refusal === null
      ? tests.map(({ attack, images, runs, firstBetter, secondBetter, p, differences }) => [
          ...[first, second, attack],
          ...[images, runs, firstBetter, secondBetter].map(String),
          ...[probability(p), differences.join('; ')],
        ])
      : [[first, second, '', '', '', '', '', '', `not paired: ${refusal}`]],
  );
  return { headings, rows };
}

/**
 * The entry of a leaderboard in RobustBench's form (its model_info files): accuracies in percent as text. Fields that
 * an evaluation cannot know are null.
 * @throws InputError without AutoAttack: that is what its numbers mean
 */
export function robustBenchEntry(s: EvaluationSummary, where: string): Record<string, unknown> {
  const percent = (value: number) => (100 * value).toFixed(2);
  const name = ['autoattack', 'autoattack-rand'].find((a) => s.attacks[a]);
  if (!name)
    throw new InputError(
      `${where}: RobustBench's form holds the accuracy under AutoAttack; evaluate with --attack autoattack`,
    );
  const own = s.attacks[name] as EvaluationSummary['attacks'][string];
  const lower = s.robust < own.robust;
  return {
    link: null,
    name: s.defence === 'none' ? s.classifier : `${s.defence} + ${s.classifier}`,
    authors: null,
    additional_data: null,
    number_forward_passes: Math.round((s.attacks.none?.defence ?? 1) / Math.max(1, s.evaluations)),
    dataset: s.dataset,
    venue: null,
    architecture: s.classifier,
    eps: fraction(s.eps),
    norm: s.norm,
    clean_acc: percent(s.standard),
    reported: null,
    autoattack_acc: percent(own.robust),
    // Their scripts take a field that is there for a number.
    ...(lower ? { external: percent(s.robust) } : {}),
    // Fewer than the test set (10,000 images, ImageNet-100's 5,000); and the ensemble is not made for defences that optimise or
    // draw at inference, as all but these do, as far as one knows.
    unreliable:
      own.knowledge !== 'adaptive' ||
      !['none', 'bits'].includes(s.defence) ||
      s.count < (s.dataset === 'image-folder' ? 5000 : 10_000),
    footnote: `${s.count} images, ${name} on surface ${own.surface} (${own.knowledge}), 95 % interval ${own.interval.map(percent).join(' to ')}`,
  };
}
