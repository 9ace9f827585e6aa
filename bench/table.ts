/** `npm run bench -- --table FILE.json...`: read-outs of --json as one Markdown table, for a README. */
import { readJson } from '../src/formats/read.ts';
import type { PeerResult, Row } from './kernels.ts';
import { number, percent } from './measure.ts';

const files = process.argv.slice(process.argv.indexOf('--table') + 1);
if (files.length === 0) {
  console.error('bench: --table wants files written by --json');
  process.exit(2);
}
const rows = files.flatMap((file) => readJson(file) as Row[]);
const names = [...new Set(rows.flatMap((r) => Object.keys(r.peers)))];
const line = (cells: readonly (string | number)[]) => `| ${cells.join(' | ')} |`;
const cell = (result: PeerResult | undefined) => {
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
  rows.map(
    (r) => `${r.adapter}, ${r.driver || 'driver not stated'}, ${r.date}${r.note ? `; ${r.note}` : ''}`,
  ),
))
  console.log(about);
console.log(
  '\nThe last columns: time of a peer over ours (processor time over ours). busy: GFLOP/s by processor time on all cores.',
);
console.log(`\n${line([...headings, ...names])}\n${line([...headings, ...names].map(() => '---'))}`);
for (const r of rows)
  console.log(
    line([
      r.kernel,
      r.pass,
      r.shape,
      r.variant,
      number(r.medianMs),
      r.spread.map(number).join('–'),
      number(r.cpuMs),
      number(r.gflops),
      number(r.busyGflops),
      percent(r.roofShare),
      ...names.map((name) => cell(r.peers[name])),
    ]),
  );
process.exit(0);
