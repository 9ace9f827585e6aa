/** `cmap table` on folders made by hand: paired tests in every format, and folders that are not what they should be. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { EvaluationConfig } from '../../src/eval/store.ts';
import { configOf, kind, record, writeFolder } from '../eval/synthetic.ts';
import { commandIn } from './command.ts';

const test = suite('cli table');
let folder = '';
test.before(() => {
  folder = mkdtempSync(join(tmpdir(), 'cmap-cli-table-'));
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

const { cmap, refused } = commandIn(() => folder);
const attacks = { none: kind('none'), pgd: kind('iterative') };

/** Two images, right without an attack; `lost` of them fall to pgd. */
function made(name: string, lost: number, more: Partial<EvaluationConfig> = {}): string {
  const config = { ...configOf([0, 1], attacks), ...more };
  const records = config.images.flatMap((i) => [
    record(i, 'none', [1]),
    record(i, 'pgd', [i < lost ? 0 : 1]),
  ]);
  writeFolder(join(folder, name), config, records);
  return name;
}

test('paired tests in markdown, csv, latex and json', () => {
  const [a, b, c] = [made('a', 0), made('b', 1), made('c', 1, { norm: 'L2', eps: 0.5 })];
  const table = cmap(['table', a, b, c]);
  assert.is(table.status, 0, table.lines.join('\n'));
  assert.match(table.stdout, /\| a \| b \| pgd \| 2 \| 1 \| 1 \| 0 \| 1\.0000 \|/);
  assert.match(table.stdout, /\| a \| c \|.*\| not paired: norms Linf and L2 \|/);
  const csv = cmap(['table', a, b, c, '--paired', '--format', 'csv']).stdout.trim().split('\n');
  assert.is(csv[0], 'first,second,attack,n,runs,first_better,second_better,p,note');
  assert.is(csv[2], 'a,b,pgd,2,1,1,0,1,');
  assert.is(csv.length, 1 + 3 + 1 + 1);
  assert.match(
    cmap(['table', a, b, '--paired', '--format', 'latex']).stdout,
    /^a & b & pgd & 2 & 1 & 1 & 0/m,
  );
  const json = JSON.parse(cmap(['table', a, c, '--paired', '--format', 'json']).stdout) as object[];
  assert.equal(json, [{ first: a, second: c, refusal: 'norms Linf and L2', tests: [] }]);
  refused(['table', a, '--paired'], /--paired compares evaluations: a is one; name a second folder/);
  refused(['table', a, b, '--paired', '--format', 'robustbench'], /robustbench has no paired tests/);
});

test('in latex the best of a column is bold, among those of the same threat model alone', () => {
  const known = { ...attacks, pgd: kind('iterative', 'transfer') };
  const dirs = [
    made('two', 0, { eps: 0.1, attacks: known }),
    made('three', 1, { eps: 0.1 }),
    made('four', 2, { eps: 0.1 }),
    made('alone', 0, { norm: 'L2', eps: 0.5 }),
  ];
  const { stdout } = cmap(['table', ...dirs, '--format', 'latex']);
  const pgd = stdout
    .split('\n')
    .filter((line) => line.startsWith('fashion-mnist'))
    .map((line) => line.split(' & ')[7]?.replace(/ {.*/, ''));
  assert.equal(pgd, ['100.0', '\\textbf{50.0}', '0.0', '100.0']);
});

test('folders that are not finished evaluations', () => {
  const spoil = (name: string, file: string, content: (text: string) => string) => {
    const path = join(folder, made(name, 1), file);
    writeFileSync(path, content(readFileSync(path, 'utf8')));
    return name;
  };
  const changed = (change: object) => (text: string) => JSON.stringify({ ...JSON.parse(text), ...change });
  refused(['table', 'nowhere'], /nowhere: holds no evaluation/);
  refused(
    ['table', spoil('half', 'summary.json', (text) => text.slice(0, 100))],
    /half.summary\.json: not valid JSON/,
  );
  refused(
    ['table', spoil('schema', 'config.json', changed({ schema: 2 }))],
    /schema.config\.json: .*another version \(schema 2, wanted 1\)/,
  );
  refused(
    ['table', spoil('other', 'summary.json', changed({ eps: 0.1 }))],
    /eps is 0\.1, wanted 0\.0627.*; cmap eval --resume --out other writes it anew/,
  );
  refused(
    ['table', spoil('none', 'summary.json', () => 'null')],
    /none.summary\.json: .*: it is null, wanted an object/,
  );
  rmSync(join(folder, made('killed', 1), 'summary.json'));
  refused(
    ['table', 'killed'],
    /killed: the evaluation is not finished; cmap eval --resume --out killed goes on/,
  );
  refused(
    ['table', spoil('empty', 'summary.json', changed({ worst: null }))],
    /worst is null, wanted an object/,
  );
  refused(
    ['table', spoil('config', 'config.json', changed({ eps: '8/255' }))],
    /config\.json: eps is "8\/255", wanted a number; the file was changed/,
  );
  refused(
    ['plot', spoil('trace', 'records.jsonl', (text) => text.replaceAll('"trace":{', '"trace":[],"was":{'))],
    /trace.records\.jsonl: line 1: trace is \[\], wanted an object; the file was changed/,
  );
  // An attack was added, and the evaluation was killed before its end.
  const more = { attacks: { ...attacks, fgsm: kind('single') } };
  refused(
    ['plot', spoil('grown', 'config.json', changed(more))],
    /attacks is "none,pgd", wanted "none,pgd,fgsm"; cmap eval --resume/,
  );
  made('whole', 1);
  refused(
    ['table', 'whole', spoil('cut', 'records.jsonl', (text) => text.split('\n').slice(0, 3).join('\n'))],
    /cut.records\.jsonl: no record of image 1 under none, run 0; cmap eval --resume --out cut makes it/,
  );
});

test.run();
