/** `npm run bench -- --table FILE.json...`: read-outs of --json as one Markdown table, for a README. */
import { readJson } from '../src/formats/read.ts';
import { markdownTable } from '../src/report/table.ts';
import type { Row } from './kernels.ts';
import { number, type PeerTime, percent } from './measure.ts';
import type { Growth, Network } from './net.ts';
import type { UpdateRow } from './train.ts';

/** A file of --net --json. */
interface Networks {
  readonly networks: readonly Network[];
  readonly growth: readonly Growth[];
}

const files = process.argv.slice(process.argv.indexOf('--table') + 1);
if (files.length === 0) {
  console.error('bench: --table wants files written by --json');
  process.exit(2);
}
const read = files.map((file) => readJson(file));
files.forEach((file, i) => {
  const found = read[i] as Partial<Networks> | null;
  if (Array.isArray(found) || (Array.isArray(found?.networks) && Array.isArray(found?.growth))) return;
  console.error(
    `bench: ${file} holds no rows of kernels and no networks; --table wants files written by --json`,
  );
  process.exit(2);
});
const rows = read.filter((found): found is (Row | UpdateRow)[] => Array.isArray(found)).flat();
const nets = read.filter((found) => !Array.isArray(found)) as Networks[];
const peersOf = (list: readonly (Row | UpdateRow | Network)[]) => [
  ...new Set(list.flatMap((r) => Object.keys(r.peers))),
];
const names = peersOf(rows);
const print = (headings: readonly string[], rows: readonly string[][]) =>
  console.log(`\n${markdownTable(headings, rows)}`);
const cell = (result: PeerTime | undefined) => {
  if (!result) return '';
  return 'error' in result ? 'no' : `${number(result.ratio)} (${number(result.cpuRatio)})`;
};
const headings = [
  'kernel',
  'pass',
  'shape',
  'variant',
  'ms',
  'quartiles',
  'processor ms',
  'GFLOP/s',
  'busy',
  'of roof',
];
for (const about of new Set(
  [...rows, ...nets.flatMap(({ networks }) => networks)].map(
    (r) =>
      `${r.adapter}, ${r.driver || 'driver not stated'}, ${r.date}${'note' in r && r.note ? `; ${r.note}` : ''}`,
  ),
))
  console.log(about);
if (rows.length > 0) {
  console.log(
    '\nThe last columns: time of a peer over ours (processor time over ours). busy: GFLOP/s by processor time on all cores.',
  );
  print(
    [...headings, ...names],
    rows.map((r) => [
      r.kernel,
      r.pass,
      r.shape,
      r.variant,
      number(r.medianMs),
      r.spread.map(number).join('–'),
      number(r.cpuMs),
      number(r.gflops),
      number(r.busyGflops),
      'roofShare' in r ? percent(r.roofShare) : '',
      ...names.map((name) => cell(r.peers[name])),
    ]),
  );
}
for (const { networks, growth } of nets) {
  if (networks.length > 0) printNetworks(networks);
  if (growth.length > 0) printGrowth(growth);
}
process.exit(0);

function printNetworks(networks: readonly Network[]): void {
  const others = peersOf(networks);
  const titles = ['network', 'ms', 'processor ms', 'GFLOP/s (busy)', 'dispatches', 'host µs each', 'busy'];
  titles.push('conv share', 'of alone', 'planned MB', 'first result ms', ...others);
  print(
    titles,
    networks.map((n) => [
      n.name,
      number(n.medianMs),
      number(n.cpuMs),
      `${number(n.gflops)} (${number(n.gflopsBusy)})`,
      String(n.dispatches),
      number(n.hostUsPerDispatchBest),
      n.busyShare === null ? '' : percent(n.busyShare),
      n.convolutions ? percent(n.convolutions.share) : '',
      n.convolutions ? percent(n.convolutions.ofAlone) : '',
      number(n.plannedBytes / 1e6),
      number(n.firstMs),
      ...others.map((name) => cell(n.peers[name])),
    ]),
  );
}

function printGrowth(growth: readonly Growth[]): void {
  const sizes = ['against', 'sizes', 'ms', 'MB', 'time exponent', 'memory exponent'];
  print(
    sizes,
    growth.map(({ against, points, timeExponent, memoryExponent }) => [
      against,
      points.map((p) => p.size).join(' '),
      points.map((p) => number(p.ms)).join(' '),
      points.map((p) => (p.plannedBytes / 1e6).toFixed(1)).join(' '),
      timeExponent.toFixed(2),
      memoryExponent.toFixed(2),
    ]),
  );
}
