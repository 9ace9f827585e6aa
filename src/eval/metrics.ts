/**
 * The metrics, defined once. For image i, attack a, run r of the attack and judgement e of the defence with its own
 * seed, c = 1 where the whole defence is right on the attacked image.
 *
 *   clean       mean_i of the bare classifier on clean images
 *   standard    mean_i mean_e c without an attack
 *   robust      of an attack: mean_i mean_r mean_e c; of all: mean_i mean_r min_a mean_e c, where `none` is one of
 *               the a: the mean of minima, not the minimum of means
 *   worst       of an attack: mean_i min_r min_e c, worst of N judgements; of all: also min over a
 *   majority    mean_i mean_r of: the most frequent label of the N judgements is right
 *   success     attack success rate: of the images whose majority is right without an attack, the share whose
 *               majority is wrong under it, averaged over r
 *
 * Intervals are Wilson's at 95 %, of n images. Where an image counts as a fraction its variance is less than that of a
 * coin, so they are wide rather than narrow.
 */
import { fraction } from '../attacks/spec.ts';
import { type Interval, mcnemarExact, mean, std, wilsonShare } from '../report/statistics.ts';
import type { AttackConfig, EvaluationConfig, EvaluationRecord } from './store.ts';

export interface Share {
  readonly value: number;
  readonly interval: readonly [number, number];
}

export interface AttackSummary {
  readonly robust: number;
  readonly interval: readonly [number, number];
  /** Standard deviation of `robust` over runs; null for one run. */
  readonly std: number | null;
  readonly worst: Share;
  readonly majority: Share;
  /** Attack success rate; null where no image was right before. */
  readonly success: Share | null;
  /** The attack's own verdict on its surface: share of images it could not fool. */
  readonly surfaceRobust: number;
  /** Of an ensemble: share of images that it could not fool after each of its attacks, in their order. */
  readonly stages?: readonly { readonly attack: string; readonly robust: number }[];
  /** The bare classifier on the attacked images. */
  readonly bare: number;
  readonly kind: string;
  readonly surface: string;
  readonly knowledge: string;
  /** Greatest perturbation. */
  readonly linf: number;
  readonly l2: number;
  readonly l1: number;
  /** Network evaluations an image: of the attack, forward and backward, and of all judgements. */
  readonly forward: number;
  readonly backward: number;
  readonly defence: number;
  readonly secondsAnImage: number;
}

export interface EvaluationSummary {
  readonly schema: 1;
  readonly dataset: string;
  readonly classifier: string;
  readonly defence: string;
  readonly norm: string;
  readonly eps: number;
  readonly count: number;
  readonly runs: number;
  /** Judgements of each attacked image, N of worst-of-N. */
  readonly evaluations: number;
  readonly seed: number;
  readonly clean: number;
  readonly cleanInterval: readonly [number, number];
  readonly standard: number;
  readonly standardInterval: readonly [number, number];
  /** Per-sample worst case over all attacks. */
  readonly robust: number;
  readonly robustInterval: readonly [number, number];
  readonly robustStd: number | null;
  readonly worst: Share;
  /** Per-sample worst case over the attacks of one kind of knowledge; null where there are none. */
  readonly adaptive: Share | null;
  readonly transfer: Share | null;
  readonly attacks: Readonly<Record<string, AttackSummary>>;
  readonly adapters: readonly string[];
  readonly seconds: number;
  readonly notes: readonly string[];
}

const pair = ({ low, high }: Interval) => [low, high] as const;
const share = (value: number, n: number): Share => ({ value, interval: pair(wilsonShare(value, n)) });
const right = (r: EvaluationRecord) => r.labels.map((label) => (label === r.label ? 1 : 0));
/** The most frequent label of the judgements, the lowest of several, is right. */
export const majorityRight = (r: EvaluationRecord): boolean => {
  const counts = new Map<number, number>();
  for (const label of r.labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return Math.min(...[...counts].filter(([, n]) => n === most).map(([label]) => label)) === r.label;
};

/** Records by attack, run and image. */
export class RecordTable {
  readonly #byAttack = new Map<string, Map<number, EvaluationRecord>[]>();

  constructor(records: Iterable<EvaluationRecord>) {
    for (const record of records) {
      const runs = this.#byAttack.get(record.attack) ?? [];
      const images = runs[record.run] ?? new Map<number, EvaluationRecord>();
      images.set(record.image, record);
      runs[record.run] = images;
      this.#byAttack.set(record.attack, runs);
    }
  }

  runs(attack: string): number {
    return this.#byAttack.get(attack)?.length ?? 0;
  }

  /** An attack with fewer runs than asked for, such as `none`, repeats. */
  at(attack: string, run: number, image: number): EvaluationRecord | undefined {
    const runs = this.#byAttack.get(attack);
    return runs?.[Math.min(run, runs.length - 1)]?.get(image);
  }

  /** @throws RangeError when it is missing */
  get(attack: string, run: number, image: number): EvaluationRecord {
    const record = this.at(attack, run, image);
    if (!record) throw new RangeError(`no record of image ${image} under ${attack}, run ${run}`);
    return record;
  }
}

/** An image that an attack did not see had been fooled before. */
function stagesOf(records: readonly EvaluationRecord[]): { attack: string; robust: number }[] {
  const names = [...new Set(records.flatMap((r) => (r.stages ?? []).map(({ attack }) => attack)))];
  const held = (r: EvaluationRecord, attack: string) =>
    (r.stages ?? []).some((stage) => stage.attack === attack && !stage.broke);
  return names.map((attack) => ({ attack, robust: mean(records.map((r) => Number(held(r, attack)))) }));
}

/** Notes are of batches: those that say the same are one, their images counted together, over runs too. */
function notesOf(records: readonly EvaluationRecord[]): string[] {
  const numbers = /(\d+)( of \d+)? images/;
  const counts = new Map<string, number>();
  const images = new Map<string, number>();
  for (const { attack } of records) images.set(attack, (images.get(attack) ?? 0) + 1);
  for (const { attack, notes = [] } of records)
    for (const note of notes) {
      const all = images.get(attack);
      const text = `${attack}: ${note.replace(numbers, `# of ${all} images`)}`;
      counts.set(text, (counts.get(text) ?? 0) + Number(numbers.exec(note)?.[1] ?? 0));
    }
  return [...counts].map(([text, count]) => text.replace('#', String(count)));
}

/** @throws RangeError when a record is missing */
export function summarise(config: EvaluationConfig, records: Iterable<EvaluationRecord>): EvaluationSummary {
  const list = [...records];
  const table = new RecordTable(list);
  const { images } = config;
  const n = images.length;
  const get = (attack: string, run: number, image: number) => table.get(attack, run, image);
  /** mean_i mean_r min_a mean_e, with the value of each run. */
  const worstOf = (attacks: readonly string[], runs: number) =>
    Array.from({ length: runs }, (_, r) =>
      mean(images.map((i) => Math.min(...attacks.map((a) => mean(right(get(a, r, i))))))),
    );
  const names = Object.keys(config.attacks);
  const runsOf = (attack: string) => Math.max(1, table.runs(attack));
  const attacks: Record<string, AttackSummary> = {};
  const before = images.filter((i) => majorityRight(get('none', 0, i)));
  for (const name of names) {
    const runs = runsOf(name);
    const each = worstOf([name], runs);
    const all = images.map((i) => Array.from({ length: runs }, (_, r) => get(name, r, i)));
    const flat = all.flat();
    const robust = mean(each);
    const held = mean(all.map((rs) => mean(rs.map((r) => (majorityRight(r) ? 1 : 0)))));
    const worst = mean(all.map((rs) => Math.min(...rs.flatMap(right))));
    const lost = before.map((i) =>
      mean(Array.from({ length: runs }, (_, r) => (majorityRight(get(name, r, i)) ? 0 : 1))),
    );
    const planned = config.attacks[name] as EvaluationConfig['attacks'][string];
    const average = (f: (r: EvaluationRecord) => number) => mean(flat.map(f));
    attacks[name] = {
      robust,
      interval: pair(wilsonShare(robust, n)),
      std: runs > 1 ? std(each) : null,
      worst: share(worst, n),
      majority: share(held, n),
      success: before.length > 0 ? share(mean(lost), before.length) : null,
      surfaceRobust: average((r) => (r.success ? 0 : 1)),
      ...(flat.some((r) => r.stages) ? { stages: stagesOf(flat) } : {}),
      bare: average((r) => (r.bare === r.label ? 1 : 0)),
      kind: planned.kind,
      surface: planned.surface,
      knowledge: planned.knowledge,
      linf: Math.max(...flat.map((r) => r.linf)),
      l2: Math.max(...flat.map((r) => r.l2)),
      l1: Math.max(...flat.map((r) => r.l1)),
      forward: average((r) => r.cost.forward),
      backward: average((r) => r.cost.backward),
      defence: average((r) => r.cost.defence),
      secondsAnImage: average((r) => r.cost.seconds),
    };
  }
  const runs = Math.max(...names.map(runsOf));
  const clean = mean(images.map((i) => (get('none', 0, i).bare === get('none', 0, i).label ? 1 : 0)));
  const standard = attacks.none as AttackSummary;
  const overall = worstOf(names, runs);
  const worst = mean(
    images.map((i) =>
      Math.min(
        ...names.flatMap((a) => Array.from({ length: runsOf(a) }, (_, r) => right(get(a, r, i))).flat()),
      ),
    ),
  );
  const knowing = (knowledge: string) => {
    const those = names.filter((a) => a !== 'none' && config.attacks[a]?.knowledge === knowledge);
    return those.length > 0 ? share(mean(worstOf(['none', ...those], runs)), n) : null;
  };
  const robust = mean(overall);
  return {
    schema: 1,
    dataset: config.dataset,
    classifier: config.classifier.name,
    defence: config.defence.name,
    norm: config.norm,
    eps: config.eps,
    count: n,
    runs: config.runs,
    evaluations: config.evaluations,
    seed: config.seed,
    clean,
    cleanInterval: pair(wilsonShare(clean, n)),
    standard: standard.robust,
    standardInterval: standard.interval,
    robust,
    robustInterval: pair(wilsonShare(robust, n)),
    robustStd: runs > 1 ? std(overall) : null,
    worst: share(worst, n),
    adaptive: knowing('adaptive'),
    transfer: knowing('transfer'),
    attacks,
    adapters: [...new Set(list.map((r) => r.adapter))],
    seconds: list.reduce((total, r) => total + r.cost.seconds, 0),
    notes: notesOf(list),
  };
}

/** A paired test of two evaluations on the images that both have. */
export interface PairedResult {
  /** One that both met, or `all shared attacks`. */
  readonly attack: string;
  readonly images: number;
  /** Of each image: the runs that both have. */
  readonly runs: number;
  /** Images that one evaluation has right in more of the runs than the other. */
  readonly firstBetter: number;
  readonly secondBetter: number;
  /** Two-sided probability of so uneven a split, were both equally good. */
  readonly p: number;
  /** What differs besides the defence, to be said beside the result: "classifier wrn and resnet20". */
  readonly differences: readonly string[];
}

export interface Comparison {
  /** Why the two cannot be paired; there are no tests then. */
  readonly refusal: string | null;
  readonly tests: readonly PairedResult[];
}

export interface Evaluation {
  readonly config: EvaluationConfig;
  readonly records: Iterable<EvaluationRecord>;
}

/**
 * Do two evaluations differ? The unit is the image, because runs of one image are no independent samples. In a run an
 * image is right when the majority of its judgements is, under each attack in question. An image speaks for the
 * evaluation that has it right in more of the runs, and the exact sign test decides; of one run that is McNemar's test.
 * Attacks correspond by name, whatever surface they take in either.
 */
export function compare(a: Evaluation, b: Evaluation): Comparison {
  const refusal = whyNotPaired(a.config, b.config);
  if (refusal !== null) return { refusal, tests: [] };
  const general = differencesOf(a.config, b.config);
  const known = new Set(b.config.images);
  const images = a.config.images.filter((image) => known.has(image));
  const tables = [new RecordTable(a.records), new RecordTable(b.records)] as const;
  const differencesOfAttack = (x: string) =>
    attackDifferences(a.config.attacks[x] as AttackConfig, b.config.attacks[x] as AttackConfig);
  const test = (attack: string, attacks: readonly string[]): PairedResult => {
    const runs = Math.min(...tables.map((table) => Math.max(...attacks.map((x) => table.runs(x)))));
    const runsRight = (table: RecordTable, image: number): number => {
      let count = 0;
      for (let run = 0; run < runs; run++)
        if (attacks.every((x) => majorityRight(table.get(x, run, image)))) count++;
      return count;
    };
    let [firstBetter, secondBetter] = [0, 0];
    for (const image of images) {
      const [first, second] = [runsRight(tables[0], image), runsRight(tables[1], image)];
      if (first > second) firstBetter++;
      if (second > first) secondBetter++;
    }
    const p = mcnemarExact(firstBetter, secondBetter);
    const own =
      attacks.length === 1
        ? differencesOfAttack(attack)
        : attacks.filter((x) => differencesOfAttack(x).length > 0).map((x) => `${x} differs`);
    const differences = [...general, ...own];
    return { attack, images: images.length, runs, firstBetter, secondBetter, p, differences };
  };
  const shared = sharedAttacks(a.config, b.config);
  const tests = shared.map((name) => test(name, [name]));
  return { refusal: null, tests: shared.length > 1 ? [...tests, test('all shared attacks', shared)] : tests };
}

const sharedAttacks = (a: EvaluationConfig, b: EvaluationConfig) =>
  Object.keys(a.attacks).filter((name) => Object.hasOwn(b.attacks, name));

/** Without the same images and the same threat model a pair means nothing. */
function whyNotPaired(a: EvaluationConfig, b: EvaluationConfig): string | null {
  if (a.dataset !== b.dataset) return `data sets ${a.dataset} and ${b.dataset}`;
  if (a.norm !== b.norm) return `norms ${a.norm} and ${b.norm}`;
  if (Math.abs(a.eps - b.eps) > 1e-6) return `eps ${fraction(a.eps)} and ${fraction(b.eps)}`;
  if (!a.images.some((image) => b.images.includes(image))) return 'no image in both';
  return sharedAttacks(a, b).length > 0 ? null : 'no attack in both';
}

/** What may differ, but not silently. */
function differencesOf(a: EvaluationConfig, b: EvaluationConfig): string[] {
  const [c, d] = [a.classifier, b.classifier];
  return [
    ...(c.name === d.name && c.sha256 !== d.sha256 ? [`classifier ${c.name} with other weights`] : []),
    ...differing('classifier', c.name, d.name),
    ...differing('runs', a.runs, b.runs),
    ...differing('judgements', a.evaluations, b.evaluations),
  ];
}

/** The same of one attack. */
function attackDifferences(a: AttackConfig, b: AttackConfig): string[] {
  const surface = ({ surface, knowledge }: AttackConfig) => `${surface} (${knowledge})`;
  const keys = new Set([...Object.keys(a.settings), ...Object.keys(b.settings)]);
  return [
    ...differing('surface', surface(a), surface(b)),
    ...[...keys].flatMap((key) => differing(key, a.settings[key], b.settings[key])),
  ];
}

function differing(what: string, a: unknown, b: unknown): string[] {
  const text = (value: unknown) => (typeof value === 'string' ? value : (JSON.stringify(value) ?? 'not set'));
  return text(a) === text(b) ? [] : [`${what} ${text(a)} and ${text(b)}`];
}
