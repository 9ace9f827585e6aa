/** `cmap grid` on a folder made by hand: the stored pixels, their labels, and folders that lack something. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { evaluationGrid } from '../../src/cli/figures.ts';
import { loadFashionMnist } from '../../src/data/fashion-mnist.ts';
import type { EvaluationRecord } from '../../src/eval/store.ts';
import { readPng } from '../../src/formats/png.ts';
import { writeSafetensors } from '../../src/formats/safetensors.node.ts';
import { configOf, kind, record, writeFolder } from '../eval/synthetic.ts';
import { commandIn } from './command.ts';

const test = suite('cli grid');
let folder = '';
test.before(() => {
  folder = mkdtempSync(join(tmpdir(), 'cmap-cli-grid-'));
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

const { cmap, refused } = commandIn(() => folder);
const size = 28 * 28;

/**
 * Test images 4 and 5: attacked ones are flat gray, 102 and 103; purified ones 150 to 153, two an image, and of the clean
 * ones 140 to 143, which older folders do not name.
 */
function made(name: string, { older = false } = {}): string {
  const { labels } = loadFashionMnist({ indices: [4, 5] });
  const [file, cleanFile] = ['images/pgd.safetensors', 'images/none.safetensors'];
  const flat = (levels: number[]) =>
    Float32Array.from(
      { length: levels.length * size },
      (_, i) => (levels[Math.floor(i / size)] as number) / 255,
    );
  mkdirSync(join(folder, name, 'images'), { recursive: true });
  writeSafetensors(join(folder, name, file), {
    adversarial: { shape: [2, 28, 28, 1], data: flat([102, 103]) },
    purified: { shape: [2, 2, 28, 28, 1], data: flat([150, 151, 152, 153]), type: 'F16' },
  });
  writeSafetensors(join(folder, name, cleanFile), {
    purified: { shape: [2, 2, 28, 28, 1], data: flat([140, 141, 142, 143]), type: 'F16' },
  });
  const empty = { mae: [], ssim: [], constraint: [], latentMean: [], latentStd: [] };
  const records = [4, 5].flatMap((image, row): EvaluationRecord[] => {
    const label = labels[row] as number;
    const votes = [Array.from({ length: 10 }, (_, l) => Number(l === label) + Number(l === 9))];
    return [
      record(image, 'none', [label], {
        ...{ label, votes, row, file: older ? null : cleanFile },
        purification: { labels: [label, 9], ...empty },
      }),
      record(image, 'pgd', [label], {
        ...{ label, bare: 7, votes, linf: 0.05, file, row },
        // The first of two is nearer to the attacked image; the second alone has the vote's label.
        purification: { labels: [9, label], ...empty },
      }),
    ];
  });
  const config = {
    ...configOf([4, 5], { none: kind('none'), pgd: kind('iterative') }),
    defence: { name: 'cmap', settings: {} },
    source: { dataset: 'fashion-mnist' },
  };
  writeFolder(join(folder, name), config, records);
  return name;
}

/** Pixels of one level of gray. */
function count(path: string, level: number): number {
  const { data } = readPng(path);
  let found = 0;
  for (let i = 0; i < data.length; i += 3)
    if (data[i] === level && data[i + 1] === level && data[i + 2] === level) found++;
  return found;
}

test('shows what was stored: attacked images, and the purified one that agrees with the vote', () => {
  const dir = made('whole');
  const run = cmap(['grid', dir, '--images', '5']);
  assert.is(run.status, 0, run.lines.join('\n'));
  assert.is(run.stdout, `${join(dir, 'grid.png')}\n`);
  const path = join(folder, dir, 'grid.png');
  const whole = (16 / 4) ** 2 * size;
  // Text holds single pixels of any gray.
  const near = (level: number, wanted: number) => {
    const found = count(path, level);
    assert.ok(found >= wanted && found < wanted + 40, `${found} of ${level}, wanted ${wanted}`);
  };
  near(103, whole);
  near(153, whole);
  near(142, whole);
  for (const level of [102, 140, 141, 143, 150, 151, 152]) near(level, 0);

  const clean = cmap(['grid', dir, '--attack', 'none', '--out', 'clean.png']);
  assert.is(clean.status, 0, clean.lines.join('\n'));
  assert.equal(
    [140, 142, 102, 103].map((level) => count(join(folder, 'clean.png'), level) >= whole),
    [true, true, false, false],
  );

  const both = cmap(['grid', made('older', { older: true }), '--out', 'both.png']);
  assert.is(both.status, 0, both.lines.join('\n'));
  assert.equal(
    [102, 103, 140, 142].map((level) => count(join(folder, 'both.png'), level) >= whole),
    [true, true, false, false],
  );
});

test('labels say who sees what', () => {
  const one = (level: number) => new Float32Array(4).fill(level);
  const unattacked = record(3, 'none', [1], { votes: [[1, 3]] });
  const under = record(3, 'pgd', [0], { bare: 2, votes: [[3, 1]] });
  const rows = [
    {
      clean: one(0.5),
      unattacked,
      purified: one(0.4),
      attacked: [{ record: under, adversarial: one(0.56), purified: one(0.5) }],
    },
  ];
  const about = { title: 't', subtitle: 's', attacks: ['pgd'], defended: true };
  const grid = evaluationGrid(rows, [2, 2, 1], (label) => `c${label}`, about);
  assert.equal(grid.columns, ['clean', 'purified', 'perturbation ×5', 'pgd', 'purified']);
  assert.is(grid.rows[0]?.label, '3 c1');
  assert.equal(
    grid.rows[0]?.cells.map((cell) => cell?.captions),
    [
      [{ text: 'c1', tone: 'good' }],
      [{ text: 'c1, 3 of 4', tone: 'good' }],
      undefined,
      [{ text: 'c2', tone: 'bad' }],
      [{ text: 'c0, 3 of 4', tone: 'bad' }],
    ],
  );
  // 0.5 + 5 · 0.06
  assert.is(grid.rows[0]?.cells[2]?.image?.data[0], Math.round(255 * 0.8));
  // One pixel in two hundred that differs by far more does not hide the others; nothing changed, nothing enlarged.
  const factor = (adversarial: Float32Array, clean = new Float32Array(adversarial.length)) =>
    evaluationGrid(
      [{ clean, unattacked, purified: null, attacked: [{ record: under, adversarial, purified: null }] }],
      [1, adversarial.length, 1],
      String,
      about,
    ).columns[2];
  assert.is(factor(new Float32Array(200).fill(0.02).fill(0.9, 0, 1)), 'perturbation ×20');
  assert.is(factor(new Float32Array(4)), 'perturbation ×1');
  const bare = evaluationGrid(rows, [2, 2, 1], String, { ...about, defended: false });
  assert.equal(bare.columns, ['clean', 'perturbation ×5', 'pgd']);
});

test('bad input', () => {
  const dir = made('bad');
  refused(['grid', 'nowhere'], /nowhere: holds no evaluation/);
  refused(['grid', dir, '--attack', 'pdg'], /bad has no attack "pdg"; it has none, pgd/);
  refused(['grid', dir, '--count', '3'], /--count must be 1 to 2, got 3; bad has 2 images/);
  refused(['grid', dir, '--images', '4,6'], /bad has no image "6"; it has 2, from 4 to 5/);
  refused(['grid', dir, '--images', '4', '--count', '1'], /--count and --images exclude each other/);
  refused(['grid', dir, '--data', 'elsewhere'], /elsewhere/);
  const records = join(folder, dir, 'records.jsonl');
  const lines = readFileSync(records, 'utf8');
  writeFileSync(records, `${lines.split('\n').slice(0, 3).join('\n')}\n`);
  refused(['grid', dir], /image 5 under pgd is not evaluated yet; cmap eval --resume --out bad goes on/);
  writeFileSync(records, lines.replaceAll('"label":', '"label":1,"was":'));
  refused(['grid', dir], /image 4 had label 1, the data set now gives another/);
  writeFileSync(records, lines);
  const images = join(folder, dir, 'images', 'pgd.safetensors');
  writeSafetensors(images, { adversarial: { shape: [1, 28, 28, 1], data: new Float32Array(size) } });
  refused(['grid', dir], /holds 1 images, image 5 under pgd should be row 1/);
  writeSafetensors(images, { adversarial: { shape: [2, 14, 28, 1], data: new Float32Array(size) } });
  refused(['grid', dir], /adversarial has shape \[2,14,28,1\], wanted 2 images of the data set, \[28,28,1\]/);
  rmSync(images);
  refused(['grid', dir], /pgd\.safetensors: cannot read it: there is no such file/);
  assert.not(existsSync(join(folder, dir, 'grid.png')), 'nothing was written');
});

test.run();
