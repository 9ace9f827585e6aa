/** Pictures of purification: attacked images beside their purified ones, and the optimisation's course. */
import { join } from 'node:path';
import { lengthOf } from '../attacks/attack.ts';
import type { EvaluationRecord, PurificationRecord } from '../eval/store.ts';
import { type Image, imageFromFloats } from '../formats/image.ts';
import { type Chart, chartToPng, lineChart, type Panel, type Series } from '../report/chart.ts';
import { writeFileAtomic } from '../report/files.ts';
import { type Cell, type Grid, gridToPng } from '../report/grid.ts';
import { quantile } from '../report/statistics.ts';

/** One row of the picture; images are [H, W, C] in [0, 1]. */
export interface GridImage {
  readonly clean: Float32Array;
  readonly adversarial: Float32Array;
  /** K of them, one after another. */
  readonly purified: Float32Array;
  /** The bare classifier's label of the clean image. */
  readonly label: number;
  /** Of the attacked one. */
  readonly record: EvaluationRecord;
}

type ImageShape = readonly [height: number, width: number, channels: number];

const pictureOf =
  ([height, width, channels]: ImageShape) =>
  (values: ArrayLike<number>): Image =>
    imageFromFloats(values, height, width, channels as 1 | 3);

/** Green where it is right, red where it is wrong. */
const said = (text: string, right: boolean) => ({ text, tone: right ? ('good' as const) : ('bad' as const) });

/** What an attack added, enlarged around gray. */
const perturbation = (clean: Float32Array, adversarial: Float32Array, factor: number) =>
  clean.map((v, i) => 0.5 + factor * ((adversarial[i] as number) - v));

/** Rows are images; columns clean, adversarial, the perturbation ×10 around gray, and the K purified images. */
export async function writeGrid(
  path: string,
  images: readonly GridImage[],
  shape: ImageShape,
  classes: readonly string[],
  subtitle: string,
): Promise<void> {
  const size = shape[0] * shape[1] * shape[2];
  const picture = pictureOf(shape);
  let k = 0;
  const rows = images.map(({ clean, adversarial, purified, label, record }) => {
    const captioned = (image: Image, given: number): Cell => ({
      image,
      captions: [said(classes[given] as string, given === record.label)],
    });
    const each = record.purification?.labels ?? [];
    k = each.length;
    const vote = record.labels[0] as number;
    return {
      cells: [
        captioned(picture(clean), label),
        captioned(picture(adversarial), record.bare),
        { image: picture(perturbation(clean, adversarial, 10)) },
        ...each.map((l, j) => captioned(picture(purified.subarray(j * size, (j + 1) * size)), l)),
        { captions: [said(`${classes[vote]}, ${record.votes[0]?.[vote]} of ${k}`, vote === record.label)] },
      ],
    };
  });
  const columns = [
    'clean',
    'adversarial',
    'perturbation ×10',
    ...Array.from({ length: k }, (_, i) => `purified ${i + 1}`),
    'vote',
  ];
  const grid = { title: 'CMAP: attacked images, purified', subtitle, columns, rows };
  writeFileAtomic(path, await gridToPng(grid));
}

/** An image under an attack, as an evaluation stored it. */
export interface AttackedImage {
  readonly record: EvaluationRecord;
  readonly adversarial: Float32Array;
  /** K of them, one after another; null where none are stored. */
  readonly purified: Float32Array | null;
}

export interface EvaluatedImage {
  readonly clean: Float32Array;
  /** What the defence made of it; null where it is not stored. */
  readonly purified: Float32Array | null;
  readonly unattacked: EvaluationRecord;
  /** By attack. */
  readonly attacked: readonly AttackedImage[];
}

/**
 * Rows are images, named by number and true class; columns the clean image, purified too where a defence does that, and,
 * of each attack, perturbation, attacked and purified image. Below an image stands what the bare classifier sees in it, below a purified one the defence's label.
 */
export function evaluationGrid(
  rows: readonly EvaluatedImage[],
  shape: ImageShape,
  name: (label: number) => string,
  about: { title: string; subtitle: string; attacks: readonly string[]; defended: boolean },
): Grid {
  const picture = pictureOf(shape);
  const all = rows.flatMap(({ unattacked, purified, attacked }) => [
    { record: unattacked, purified },
    ...attacked,
  ]);
  const factor = magnification(rows);
  const k = Math.max(0, ...all.map(({ record }) => record.votes[0]?.reduce((a, b) => a + b, 0) ?? 0));
  const stored = all.some(({ purified }) => purified !== null);
  const verdict = ({ labels, label, votes }: EvaluationRecord) => {
    const vote = labels[0] as number;
    return said(`${name(vote)}${k > 1 ? `, ${votes[0]?.[vote] ?? 0} of ${k}` : ''}`, vote === label);
  };
  const seen = ({ bare, label }: EvaluationRecord) => said(name(bare), bare === label);
  const agreeing = all.some(({ record }) => record.purification) ? ' that agrees with the vote' : '';
  const shown = stored && k > 1 ? `; of ${k} purified images the nearest${agreeing}` : '';
  const purifiedCell = (
    record: EvaluationRecord,
    input: Float32Array,
    purified: Float32Array | null,
  ): Cell[] => {
    if (!about.defended) return [];
    const captions = [verdict(record)];
    if (!purified) return [{ captions }];
    const at =
      input.length * nearest(purified, input, record.purification?.labels, record.labels[0] as number);
    return [{ image: picture(purified.subarray(at, at + input.length)), captions }];
  };
  const purifiedColumn = about.defended ? ['purified'] : [];
  return {
    title: about.title,
    subtitle: `${about.subtitle}; labels: the bare classifier’s${about.defended ? `, below purified images the defence’s${shown}` : ''}`,
    columns: [
      'clean',
      ...purifiedColumn,
      ...about.attacks.flatMap((attack) => [`perturbation ×${factor}`, attack, ...purifiedColumn]),
    ],
    rows: rows.map(({ clean, unattacked, purified: own, attacked }) => ({
      label: `${unattacked.image} ${name(unattacked.label)}`,
      cells: [
        { image: picture(clean), captions: [seen(unattacked)] },
        ...purifiedCell(unattacked, clean, own),
        ...attacked.flatMap(({ record, adversarial, purified }): Cell[] => [
          { image: picture(perturbation(clean, adversarial, factor)) },
          { image: picture(adversarial), captions: [seen(record)] },
          ...purifiedCell(record, adversarial, purified),
        ]),
      ],
    })),
  };
}

/**
 * The greatest of 1, 2, 5, 10, … 500 that leaves 99 % of the pixels that were changed in range: in L2 a single one may
 * differ by far more than the rest.
 */
function magnification(rows: readonly EvaluatedImage[]): number {
  const changes: number[] = [];
  for (const { clean, attacked } of rows)
    for (const { adversarial } of attacked)
      clean.forEach((v, i) => {
        const change = Math.abs((adversarial[i] as number) - v);
        if (change > 0) changes.push(change);
      });
  const steps = [1, 2, 5].flatMap((step) => [0, 1, 2].map((power) => step * 10 ** power));
  const usual = quantile(changes, 0.99);
  return Math.max(1, ...steps.filter((step) => step * usual <= 0.5));
}

/**
 * Of K purified images, one after another, the number of the one nearest to the input in L1, where their labels are known
 * among those that agree with the vote.
 */
export function nearest(
  purified: Float32Array,
  input: Float32Array,
  labels: readonly number[] | undefined,
  vote: number,
): number {
  const size = input.length;
  // Pixels lie in [0, 1]: no image is further away than its size.
  const distances = Array.from({ length: purified.length / size }, (_, k) => {
    const distance = lengthOf('L1', purified.subarray(k * size, (k + 1) * size), input);
    return labels && labels[k] !== vote ? distance + size + 1 : distance;
  });
  return distances.indexOf(Math.min(...distances));
}

type Field = Exclude<keyof PurificationRecord, 'labels'>;

/** Means over records, by iteration. */
function average(records: readonly EvaluationRecord[], field: Field): Float64Array {
  const traces = records.flatMap((r) => (r.purification ? [r.purification[field]] : []));
  return Float64Array.from(
    { length: traces[0]?.length ?? 0 },
    (_, t) => traces.reduce((sum, trace) => sum + (trace[t] ?? Number.NaN), 0) / traces.length,
  );
}

/**
 * The course of purification: loss parts, and the latents' mean and standard deviation across K, over iterations; means
 * over images (the paper's Fig. 6).
 * @param groups lines of their own in each panel, by name; one group is not named
 * @param sigma what the latents' standard deviation should be
 */
export function purificationChart(
  groups: Readonly<Record<string, readonly EvaluationRecord[]>>,
  sigma: number,
  subtitle: string,
): Chart {
  const named = Object.entries(groups);
  const panel = (title: string, field: Field, level?: number): Panel => ({
    title,
    xLabel: 'iteration',
    series: named.map(([name, records]): Series => ({ name, y: average(records, field) })),
    references: level === undefined ? [] : [{ y: level, label: `${level}` }],
  });
  return {
    title: 'Latent optimisation',
    subtitle,
    columns: 3,
    panels: [
      panel('MAE (Eq. 10)', 'mae'),
      panel('SSIM (Eq. 10)', 'ssim'),
      panel('Latent constraint (Eq. 12)', 'constraint'),
      panel('Latents’ mean across K', 'latentMean', 0),
      panel('Latents’ standard deviation across K', 'latentStd', sigma),
    ],
  };
}

/** Writes NAME.svg and NAME.png. @returns the path of the SVG */
export async function writeChart(folder: string, name: string, chart: Chart): Promise<string> {
  const path = join(folder, name);
  writeFileAtomic(`${path}.svg`, lineChart(chart));
  writeFileAtomic(`${path}.png`, await chartToPng(chart));
  return `${path}.svg`;
}
