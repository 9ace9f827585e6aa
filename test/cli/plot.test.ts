/** `cmap plot` on folders made by hand: which lines it draws, and evaluations that no chart can hold together. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { accuracyByIteration } from '../../src/eval/curves.ts';
import type { EvaluationConfig, PurificationRecord } from '../../src/eval/store.ts';
import { configOf, kind, record, writeFolder } from '../eval/synthetic.ts';
import { commandIn } from './command.ts';

const test = suite('cli plot');
let folder = '';
test.before(() => {
  folder = mkdtempSync(join(tmpdir(), 'cmap-cli-plot-'));
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

const { cmap, refused } = commandIn(() => folder);
const attacks = { none: kind('none'), pgd: kind('iterative') };
const trace = { loss: [0, 0, 0], hit: [0, 0, 1] };

function made(name: string, more: Partial<EvaluationConfig> = {}, fields: object = {}): string {
  const config = { ...configOf([0, 1], attacks), ...more };
  const records = config.images.flatMap((i) => [
    record(i, 'none', [1], fields),
    record(i, 'pgd', [i % 2], { trace, ...fields }),
  ]);
  writeFolder(join(folder, name), config, records);
  return name;
}

/** The names in a chart's legend. */
const legend = (file: string) =>
  [...readFileSync(join(folder, file), 'utf8').matchAll(/<tspan dx="5"[^>]*>([^<]*)</g)].map((m) => m[1]);
const text = (file: string) => readFileSync(join(folder, file), 'utf8');

function plot(...dirs: string[]): string {
  rmSync(join(folder, 'out'), { recursive: true, force: true });
  const run = cmap(['plot', ...dirs, '--out', 'out']);
  assert.is(run.status, 0, run.lines.join('\n'));
  return run.stdout;
}

test('accuracy against eps: a line an attack and subject, named by what differs', () => {
  const at = (eps: number, more: Partial<EvaluationConfig> = {}) => ({ eps: eps / 255, ...more });
  const other = { classifier: { name: 'resnet', sha256: 'b' } };
  const [a, b] = [made('a', at(8)), made('b', at(16))];
  assert.not.match(plot(a, b), /purification/);
  assert.equal(legend('out/iterations.svg'), ['8/255 pgd', '16/255 pgd']);
  // Alone on its chart a line needs no legend.
  assert.equal(legend('out/eps.svg'), []);
  assert.match(text('out/eps.svg'), /fashion-mnist, Linf, wrn, no defence, n 2;.*eps × 255/s);

  const [c, d] = [made('c', at(8, other)), made('d', at(16, other))];
  plot(a, b, c, d);
  assert.equal(legend('out/eps.svg'), ['wrn, pgd', 'resnet, pgd']);
  const settings = (k: number) => ({ defence: { name: 'cmap', settings: { k } } });
  const few = made('few', at(8, settings(4)));
  const many = made('many', at(16, settings(10)));
  plot(few, many);
  assert.equal(legend('out/eps.svg'), ['few, pgd', 'many, pgd'], 'two defences are not joined by a line');
});

test('evaluations that one chart cannot hold', () => {
  const [a, l2] = [made('linf'), made('l2', { norm: 'L2', eps: 0.5 })];
  refused(['plot', a, l2], /linf has norm Linf, l2 has L2; plot those of one norm together/);
  refused(
    ['plot', a, made('cifar', { dataset: 'cifar10' })],
    /linf has dataset fashion-mnist, cifar has cifar10/,
  );
  const [again, wide] = [made('again'), made('wide', { eps: 0.3 })];
  refused(['plot', a, again, wide], /linf and again: the same defence on the same images at eps 16\/255/);
  refused(['plot', made('idle', {}, { trace: { loss: [], hit: [] } })], /idle: nothing to plot/);
  assert.not(existsSync(join(folder, 'linf', 'iterations.svg')), 'nothing was written');
});

test('accuracy of the vote by iteration, where it was recorded', () => {
  const latents = { mae: [1, 1, 1], ssim: [1, 1, 1], constraint: [1, 1, 1], latentMean: [], latentStd: [] };
  const purification = (...voted: number[]): PurificationRecord => ({
    ...{ labels: [1], ...latents, looked: [1, 3], voted, right: [0.5, 0.5] },
  });
  const records = [
    record(0, 'a', [1], { purification: purification(0, 1) }),
    record(1, 'a', [1], { purification: purification(1, 1) }),
    record(2, 'a', [1], { purification: purification(2, 0) }),
    record(3, 'a', [1]),
  ];
  assert.equal(accuracyByIteration(records), { iterations: [1, 3], accuracy: [1 / 3, 2 / 3] });
  assert.equal(accuracyByIteration([record(0, 'a', [1])]), { iterations: [], accuracy: [] });

  const out = plot(made('voted', {}, { purification: purification(0, 1) }));
  assert.match(out, /out.purification\.svg/);
  assert.match(text('out/purification.svg'), /Accuracy of the vote as images are purified/);
  assert.equal(legend('out/purification.svg'), ['clean', 'pgd']);
});

test.run();
