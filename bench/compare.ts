/**
 * `npm run bench -- --compare A.json B.json`: what changed from one read-out to another, case by case. A change counts
 * when the quartiles of the two do not overlap; anything else is noise.
 */
import { readJson } from '../src/formats/read.ts';
import { formatTable } from '../src/report/table.ts';
import type { Row } from './kernels.ts';
import { number, percent } from './measure.ts';

const at = process.argv.indexOf('--compare');
const [a, b] = process.argv.slice(at + 1, at + 3);
if (!a || !b) {
  console.error('bench: --compare wants two files, each written by --json');
  process.exit(2);
}
type Saved = Pick<Row, 'kernel' | 'pass' | 'shape' | 'medianMs' | 'spread' | 'variant' | 'adapter'>;
const load = (path: string) => {
  const rows = readJson(path);
  if (!Array.isArray(rows) || !rows.every((row) => Array.isArray(row?.spread))) {
    console.error(
      `bench: ${path}: not the kernels of a read-out; --compare takes two files written by --json without --net`,
    );
    process.exit(1);
  }
  return new Map((rows as Saved[]).map((row) => [`${row.kernel} ${row.pass} ${row.shape}`, row]));
};
const [before, after] = [load(a), load(b)];
const rows: string[][] = [];
for (const [key, row] of after) {
  const old = before.get(key);
  if (!old) {
    rows.push([key, '', number(row.medianMs), '', 'new', row.variant ?? '']);
    continue;
  }
  const apart = row.spread[0] > old.spread[1] || old.spread[0] > row.spread[1];
  const change = row.medianMs / old.medianMs;
  const verdict = !apart ? 'noise' : change < 1 ? 'faster' : 'slower';
  const variant = old.variant === row.variant ? '' : `${old.variant ?? '?'} -> ${row.variant ?? '?'}`;
  rows.push([key, number(old.medianMs), number(row.medianMs), percent(change), verdict, variant]);
}
for (const [key, row] of before)
  if (!after.has(key)) rows.push([key, number(row.medianMs), '', '', 'gone', '']);
const adapters = [before, after].map((m) =>
  [...new Set([...m.values()].map((row) => row.adapter))].join(', '),
);
console.log(`${a}: ${adapters[0]}\n${b}: ${adapters[1]}\n`);
if (adapters[0] !== adapters[1])
  console.log('Different adapters: the times compare adapters, not kernels.\n');
console.log(formatTable(['case', 'A ms', 'B ms', 'B of A', 'verdict', 'variant'], rows));
process.exit(0);
