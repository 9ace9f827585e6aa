/** `cmap plot DIR…`: accuracy against iterations, and against eps where evaluations differ in it; CMAP's latents. */
import { Command } from 'commander';
import { fraction } from '../attacks/spec.ts';
import { InputError } from '../engine/errors.ts';
import { accuracyByIteration, fooledBy } from '../eval/curves.ts';
import { type FinishedEvaluation, readFinished } from '../eval/finished.ts';
import type { EvaluationSummary } from '../eval/metrics.ts';
import type { EvaluationRecord } from '../eval/store.ts';
import { publishedSigmas } from '../nets/consistency.ts';
import type { Chart, Series } from '../report/chart.ts';
import { wilsonShare } from '../report/statistics.ts';
import { purificationChart, writeChart } from './figures.ts';

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

interface Plotted extends FinishedEvaluation {
  readonly folder: string;
}

/** What evaluations may differ in, as a chart says it. */
const facts = {
  classifier: ({ config }: Plotted) => config.classifier.name,
  defence: ({ config }: Plotted) => (config.defence.name === 'none' ? 'no defence' : config.defence.name),
  eps: ({ config }: Plotted) => fraction(config.eps),
  n: ({ config }: Plotted) => `n ${config.images.length}`,
};
type Fact = keyof typeof facts;

/** Charts by the name of their file. */
function charts(folders: readonly string[]): [string, Chart][] {
  const evaluations = folders.map((folder): Plotted => ({ folder, ...readFinished(folder) }));
  checkTogether(evaluations);
  const every = Object.keys(facts) as Fact[];
  const names = namesOf(evaluations, every);
  const curves: Series[] = [];
  const votes: Series[] = [];
  const purified: Record<string, readonly EvaluationRecord[]> = {};
  evaluations.forEach(({ config, records }, i) => {
    for (const attack of Object.keys(config.attacks)) {
      const name = [names[i], attack === 'none' ? 'clean' : attack].filter((part) => part !== '').join(' ');
      const own = records.filter((r) => r.attack === attack);
      if (own.some((r) => r.purification)) purified[name] = own;
      const n = config.images.length;
      const { iterations, accuracy } = accuracyByIteration(own);
      if (iterations.length > 0) votes.push({ ...banded(name, accuracy, n), x: iterations });
      const robust = fooledBy(own).map((share) => 1 - share);
      if (robust.length >= 3) curves.push(banded(name, robust, n));
    }
  });
  const shared = subtitleOf(evaluations, every);
  const subtitle = `${shared}; bands are 95 % intervals`;
  const found: [string, Chart][] = [];
  if (curves.length > 0) {
    const labels = { xLabel: 'evaluation of the attack', yLabel: 'share of images' };
    found.push([
      'iterations',
      chartOf('Not fooled so far, on the surface attacked', subtitle, labels, curves),
    ]);
  }
  if (new Set(evaluations.map(({ config }) => config.eps)).size > 1) {
    const series = againstEps(evaluations);
    const text = `${subtitleOf(evaluations, withoutEps)}; bands are 95 % intervals`;
    const labels = { xLabel: levels(evaluations) === 1 ? 'eps' : 'eps × 255', yLabel: 'accuracy' };
    if (series.length > 0) found.push(['eps', chartOf('Accuracy of the defence', text, labels, series)]);
  }
  if (votes.length > 0) {
    const text = `${shared}; first judgement, bands are 95 % intervals`;
    const labels = { xLabel: 'iteration of the purification', yLabel: 'accuracy' };
    found.push(['purification', chartOf('Accuracy of the vote as images are purified', text, labels, votes)]);
  }
  if (Object.keys(purified).length > 0) {
    const text = `${shared}; means over images, first judgement`;
    found.push(['latents', purificationChart(purified, sigmaOf(evaluations), text)]);
  }
  if (found.length === 0)
    throw new InputError(
      `${folders.join(', ')}: nothing to plot: no attack with iterations, and one eps; evaluate more`,
    );
  return found;
}

/** What the latents' standard deviation should be. */
function sigmaOf(evaluations: readonly Plotted[]): number {
  const own = evaluations.find(({ config }) => config.defence.name === 'cmap')?.config.defence.settings.sigma;
  return typeof own === 'number' ? own : publishedSigmas.max;
}

function chartOf(
  title: string,
  subtitle: string,
  labels: { xLabel: string; yLabel: string },
  series: readonly Series[],
): Chart {
  return { title, subtitle, width: 640, height: 400, panels: [{ ...labels, yDomain: [0, 1], series }] };
}

/** A line of shares of n images, with their intervals. */
function banded(name: string, y: readonly number[], n: number): Series {
  const intervals = y.map((share) => wilsonShare(share, n));
  return { name, y, band: { low: intervals.map((b) => b.low), high: intervals.map((b) => b.high) } };
}

/** @throws InputError where one chart cannot hold all of them */
function checkTogether([first, ...others]: readonly Plotted[]): void {
  for (const other of others)
    for (const field of ['dataset', 'norm'] as const) {
      const [a, b] = [first?.config[field], other.config[field]];
      if (a !== b)
        throw new InputError(
          `${first?.folder} has ${field} ${a}, ${other.folder} has ${b}; plot those of one ${field} together`,
        );
    }
}

/** What tells evaluations apart: the facts that differ, and the folder where those are not enough. */
function namesOf(evaluations: readonly Plotted[], given: readonly Fact[]): string[] {
  const differing = given.filter((fact) => new Set(evaluations.map(facts[fact])).size > 1);
  const names = evaluations.map((e) => differing.map((fact) => facts[fact](e)).join(' '));
  return names.map((name, i) =>
    names.filter((other) => other === name).length > 1 ? `${name} ${evaluations[i]?.folder}`.trim() : name,
  );
}

/** The facts that all evaluations share. */
function subtitleOf(evaluations: readonly Plotted[], given: readonly Fact[]): string {
  const { dataset, norm } = (evaluations[0] as Plotted).config;
  const shared = given.filter((fact) => new Set(evaluations.map(facts[fact])).size === 1);
  const text = (fact: Fact) => `${fact === 'eps' ? 'eps ' : ''}${facts[fact](evaluations[0] as Plotted)}`;
  return [dataset, norm, ...shared.map(text)].join(', ');
}

/** Radii in L∞ are told in levels of a pixel. */
const levels = ([first]: readonly Plotted[]) => (first?.config.norm === 'Linf' ? 255 : 1);

const withoutEps = ['classifier', 'defence', 'n'] as const;

/** A line an attack and evaluated subject; at eps 0 stands the standard accuracy. */
function againstEps(evaluations: readonly Plotted[]): Series[] {
  const groups = new Map<string, Plotted[]>();
  for (const evaluation of evaluations) {
    const { classifier, generator, defence, images } = evaluation.config;
    const key = JSON.stringify([classifier, generator, defence, images]);
    groups.set(key, [...(groups.get(key) ?? []), evaluation]);
  }
  const subjects = [...groups.values()];
  const names = namesOf(
    subjects.map(([first]) => first as Plotted),
    withoutEps,
  );
  return subjects.flatMap((subject, i): Series[] => {
    const sorted = subject.toSorted((p, q) => p.summary.eps - q.summary.eps);
    const twin = sorted.find((e, k) => e.summary.eps === sorted[k + 1]?.summary.eps);
    if (twin)
      throw new InputError(
        `${sorted
          .filter((e) => e.summary.eps === twin.summary.eps)
          .map((e) => e.folder)
          .join(
            ' and ',
          )}: the same defence on the same images at eps ${fraction(twin.summary.eps)}; plot one of them`,
      );
    const start = sorted[0] as Plotted;
    const line = (attack: string, of: (s: EvaluationSummary) => Point | null): Series[] => {
      const points = sorted.flatMap(({ summary }) => {
        const found = of(summary);
        return found ? [{ x: levels(evaluations) * summary.eps, ...found }] : [];
      });
      if (points.length === 0) return [];
      const all = [{ x: 0, y: start.summary.standard, interval: start.summary.standardInterval }, ...points];
      return [
        {
          name: [names[i], attack].filter((part) => part !== '').join(', '),
          x: all.map((p) => p.x),
          y: all.map((p) => p.y),
          band: { low: all.map((p) => p.interval[0]), high: all.map((p) => p.interval[1]) },
          // Often the strongest attack's line, which must be seen below it.
          dashed: attack === 'all attacks',
        },
      ];
    };
    const attacks = [...new Set(sorted.flatMap(({ config }) => Object.keys(config.attacks)))].filter(
      (attack) => attack !== 'none',
    );
    const several = (s: EvaluationSummary) => Object.keys(s.attacks).length > 2;
    return [
      ...attacks.flatMap((attack) =>
        line(attack, ({ attacks: { [attack]: a } }) => (a ? { y: a.robust, interval: a.interval } : null)),
      ),
      ...line('all attacks', (s) => (several(s) ? { y: s.robust, interval: s.robustInterval } : null)),
    ];
  });
}

interface Point {
  readonly y: number;
  readonly interval: readonly [number, number];
}
