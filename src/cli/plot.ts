/** `cmap plot DIR…`: accuracy against iterations, and against eps where evaluations differ in it; CMAP's latents. */
import { Command } from 'commander';
import { InputError } from '../engine/errors.ts';
import { fooledBy } from '../eval/curves.ts';
import { type EvaluationRecord, readEvaluation } from '../eval/store.ts';
import { fraction } from '../eval/tables.ts';
import { publishedSigmas } from '../nets/consistency.ts';
import type { Chart, Series } from '../report/chart.ts';
import { wilsonShare } from '../report/statistics.ts';
import { purificationChart, writeChart } from './figures.ts';
import { readSummary } from './table.ts';

export function plotCommand(): Command {
  return new Command('plot')
    .description('Accuracy against iterations and against eps, and CMAP’s optimisation, as SVG and PNG.')
    .argument('<dir...>', 'folders of cmap eval')
    .option('--out <dir>', 'where to write; default the first folder')
    .action(async (folders: string[], { out = folders[0] as string }: { out?: string }) => {
      for (const [name, chart] of charts(folders)) {
        const path = await writeChart(out, name, chart);
        process.stdout.write(`${path}\n${path.replace(/svg$/, 'png')}\n`);
      }
    });
}

function charts(folders: readonly string[]): [string, Chart][] {
  const summaries = folders.map(readSummary);
  const found: [string, Chart][] = [];
  const curves: Series[] = [];
  const purified: Record<string, EvaluationRecord[]> = {};
  folders.forEach((folder, i) => {
    const { config, records } = readEvaluation(folder);
    const differing = folders.length > 1 ? `${summaries[i]?.defence} ${fraction(config.eps)} ` : '';
    for (const name of Object.keys(config.attacks)) {
      const own = records.filter((r) => r.attack === name);
      if (own.some((r) => r.purification)) purified[`${differing}${name === 'none' ? 'clean' : name}`] = own;
      const robust = fooledBy(own).map((share) => 1 - share);
      if (robust.length < 3) continue;
      const n = config.images.length;
      const band = robust.map((p) => wilsonShare(p, n));
      curves.push({
        name: `${differing}${name}`,
        y: robust,
        band: { low: band.map((b) => b.low), high: band.map((b) => b.high) },
      });
    }
  });
  const [first] = summaries as [(typeof summaries)[number]];
  const subtitle = `${first.dataset}, ${first.classifier}, ${first.norm}, n ${first.count}; bands are 95 % intervals`;
  if (curves.length > 0) {
    found.push([
      'iterations',
      {
        title: 'Not fooled so far, on the surface attacked',
        subtitle,
        width: 640,
        height: 400,
        panels: [
          { xLabel: 'evaluation of the attack', yLabel: 'share of images', yDomain: [0, 1], series: curves },
        ],
      },
    ]);
  }
  if (new Set(summaries.map((s) => s.eps)).size > 1) {
    if (new Set(summaries.map((s) => s.norm)).size > 1)
      throw new InputError('these evaluations have different norms; plot those of one norm together');
    found.push(['eps', againstEps(summaries, subtitle)]);
  }
  if (Object.keys(purified).length > 0) {
    const text = subtitle.replace(/;.*/, '; means over images, first judgement');
    found.push(['latents', purificationChart(purified, publishedSigmas.max, text)]);
  }
  if (found.length === 0)
    throw new InputError(
      `${folders.join(', ')}: nothing to plot: no attack with iterations, and one eps; evaluate more`,
    );
  return found;
}

/** A line a defence and attack; at eps 0 stands the standard accuracy. */
function againstEps(summaries: readonly ReturnType<typeof readSummary>[], subtitle: string): Chart {
  const lines = new Map<string, { x: number; y: number; low: number; high: number }[]>();
  for (const s of summaries) {
    const attacks = Object.entries(s.attacks).filter(([name]) => name !== 'none');
    const all = attacks.length > 1 ? [['all attacks', null] as const] : [];
    for (const [name, a] of [...attacks, ...all]) {
      const key = `${s.defence}, ${name}`;
      const [y, [low, high]] = a ? [a.robust, a.interval] : [s.robust, s.robustInterval];
      const points = lines.get(key) ?? [
        { x: 0, y: s.standard, low: s.standardInterval[0], high: s.standardInterval[1] },
      ];
      lines.set(key, [...points, { x: 255 * s.eps, y, low, high }]);
    }
  }
  const series = [...lines].map(([name, points]): Series => {
    const sorted = points.toSorted((p, q) => p.x - q.x);
    return {
      name,
      // Often the strongest attack's line, which must be seen below it.
      dashed: name.endsWith(', all attacks'),
      x: sorted.map((p) => p.x),
      y: sorted.map((p) => p.y),
      band: { low: sorted.map((p) => p.low), high: sorted.map((p) => p.high) },
    };
  });
  return {
    title: 'Accuracy of the defence',
    subtitle,
    width: 640,
    height: 400,
    panels: [{ xLabel: 'eps × 255', yLabel: 'accuracy', yDomain: [0, 1], series }],
  };
}
