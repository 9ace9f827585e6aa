/** The demo's two pictures. */
import { join } from 'node:path';
import type { TraceEntry } from '../cmap/purify.ts';
import type { ImageRecord } from '../eval/evaluate.ts';
import { type Image, imageFromFloats } from '../formats/image.ts';
import { chartToPng, lineChart } from '../report/chart.ts';
import { writeFileAtomic } from '../report/files.ts';
import { type Cell, gridToPng } from '../report/grid.ts';

/** Rows are images; columns clean, adversarial, the perturbation ×10 around gray, and the K purified images. */
export async function writeGrid(
  folder: string,
  records: readonly ImageRecord[],
  clean: Float32Array,
  shape: readonly [number, number, number],
  classes: readonly string[],
  subtitle: string,
): Promise<string> {
  const [height, width, channels] = shape;
  const size = height * width * channels;
  const picture = (values: Float32Array): Image => imageFromFloats(values, height, width, channels as 1 | 3);
  const captioned = (image: Image, label: number, truth: number): Cell => ({
    image,
    captions: [{ text: classes[label] as string, tone: label === truth ? 'good' : 'bad' }],
  });
  const k = (records[0] as ImageRecord).purified.length / size;
  const rows = records.map((r) => {
    const original = clean.subarray(r.image * size, (r.image + 1) * size);
    const difference = original.map((v, i) => 0.5 + 10 * ((r.adversarial[i] as number) - v));
    const { votes, label } = r.defendedAttacked;
    return {
      cells: [
        captioned(picture(original), r.clean, r.label),
        captioned(picture(r.adversarial), r.attacked, r.label),
        { image: picture(difference) },
        ...r.purifiedLabels.map((l, j) =>
          captioned(picture(r.purified.subarray(j * size, (j + 1) * size)), l, r.label),
        ),
        {
          captions: [
            {
              text: `${classes[label]}, ${votes[label]} of ${k}`,
              tone: label === r.label ? ('good' as const) : ('bad' as const),
            },
          ],
        },
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
  const path = join(folder, 'grid.png');
  writeFileAtomic(
    path,
    await gridToPng({ title: 'CMAP: attacked images, purified', subtitle, columns, rows }),
  );
  return path;
}

/** Loss parts, and the latents' mean and standard deviation, over iterations; means over images (the paper's Fig. 6). */
export async function writeTrace(
  folder: string,
  traces: readonly (readonly TraceEntry[])[],
  sigma: number,
  subtitle: string,
): Promise<string> {
  const iterations = traces[0]?.length ?? 0;
  const average = (field: keyof TraceEntry) =>
    Float64Array.from(
      { length: iterations },
      (_, t) => traces.reduce((sum, trace) => sum + (trace[t] as TraceEntry)[field], 0) / traces.length,
    );
  const xLabel = 'iteration';
  const chart = {
    title: 'Latent optimisation',
    subtitle,
    columns: 3,
    panels: [
      {
        title: 'Restoration (Eq. 10)',
        xLabel,
        series: [
          { name: 'MAE', y: average('mae') },
          { name: 'SSIM', y: average('ssim') },
        ],
      },
      {
        title: 'Latent constraint (Eq. 12)',
        xLabel,
        series: [{ name: 'constraint', y: average('constraint') }],
      },
      {
        title: 'Latents across K',
        xLabel,
        series: [
          { name: 'mean', y: average('latentMean') },
          { name: 'standard deviation', y: average('latentStd') },
        ],
        references: [
          { y: 0, label: '0' },
          { y: sigma, label: `${sigma}` },
        ],
      },
    ],
  };
  const path = join(folder, 'trace.svg');
  writeFileAtomic(path, lineChart(chart));
  writeFileAtomic(join(folder, 'trace.png'), await chartToPng(chart));
  return path;
}
