/** Pictures of purification: attacked images beside their purified ones, and the optimisation's course. */
import { join } from 'node:path';
import type { EvaluationRecord, PurificationRecord } from '../eval/store.ts';
import { type Image, imageFromFloats } from '../formats/image.ts';
import { type Chart, chartToPng, lineChart, type Panel, type Series } from '../report/chart.ts';
import { writeFileAtomic } from '../report/files.ts';
import { type Cell, gridToPng } from '../report/grid.ts';

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

/** Rows are images; columns clean, adversarial, the perturbation ×10 around gray, and the K purified images. */
export async function writeGrid(
  path: string,
  images: readonly GridImage[],
  shape: readonly [number, number, number],
  classes: readonly string[],
  subtitle: string,
): Promise<void> {
  const [height, width, channels] = shape;
  const size = height * width * channels;
  const picture = (values: Float32Array): Image => imageFromFloats(values, height, width, channels as 1 | 3);
  const said = (text: string, right: boolean) => ({
    text,
    tone: right ? ('good' as const) : ('bad' as const),
  });
  let k = 0;
  const rows = images.map(({ clean, adversarial, purified, label, record }) => {
    const captioned = (image: Image, given: number): Cell => ({
      image,
      captions: [said(classes[given] as string, given === record.label)],
    });
    const difference = clean.map((v, i) => 0.5 + 10 * ((adversarial[i] as number) - v));
    const each = record.purification?.labels ?? [];
    k = each.length;
    const vote = record.labels[0] as number;
    return {
      cells: [
        captioned(picture(clean), label),
        captioned(picture(adversarial), record.bare),
        { image: picture(difference) },
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
    ...(level === undefined ? {} : { references: [{ y: level, label: `${level}` }] }),
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
