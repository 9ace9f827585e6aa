/** What CMAP did and what its generator can: recorded and plotted by `cmap eval` and `plot`, measured by `cmap quality`. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { readEvaluation } from '../../src/eval/store.ts';
import { decodePng } from '../../src/formats/png.ts';
import { commandIn } from './command.ts';

const test = suite('quality');
let folder = '';
test.before(() => {
  folder = mkdtempSync(join(tmpdir(), 'cmap-quality-'));
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

const { cmap, refused } = commandIn(() => folder);

test('CMAP: purification is recorded and plotted', () => {
  const out = join(folder, 'cmap');
  const small = ['--count', '2', '--k', '2', '--iterations', '3', '--steps', '2', '--eval-runs', '2'];
  const run = cmap([
    ...['eval', '--dataset', 'fashion-mnist', '--defence', 'cmap', '--attack', 'pgd@classifier', ...small],
    ...['--out', out, '-q'],
  ]);
  assert.is(run.status, 0, run.lines.join('\n'));
  for (const { purification, votes } of readEvaluation(out).records) {
    assert.is(purification?.labels.length, 2);
    assert.is(votes[0]?.[purification?.labels[0] as number] !== 0, true, 'its label has a vote');
    for (const field of ['mae', 'ssim', 'constraint', 'latentMean', 'latentStd'] as const)
      assert.is(purification?.[field].length, 3, field);
    const spread = purification?.latentStd[0] as number;
    // Of two latents of standard deviation 80 the expected value is 80·√(2/π) = 64.
    assert.ok(spread > 50 && spread < 90, `${spread}`);
  }
  const plot = cmap(['plot', out]);
  assert.is(plot.status, 0, plot.lines.join('\n'));
  for (const file of ['latents.svg', 'latents.png', 'iterations.svg', 'iterations.png'])
    assert.ok(existsSync(join(out, file)), file);
  assert.match(readFileSync(join(out, 'latents.svg'), 'utf8'), /standard deviation across K/);
});

test('quality: samples and restoration; what is missing is one line', () => {
  const out = join(folder, 'quality');
  const args = ['quality', '--dataset', 'fashion-mnist', '--count', '4', '--out', out, '-q'];
  const run = cmap([...args, '--restore', '2', '--iterations', '1,3', '--k', '2']);
  assert.is(run.status, 0, run.lines.join('\n'));
  const report = JSON.parse(readFileSync(join(out, 'quality.json'), 'utf8'));
  assert.is(report.frechetDistance, null);
  const [first, second] = report.restoration;
  assert.equal([first.iterations, second.iterations, first.count], [1, 3, 2]);
  assert.ok(second.mae < first.mae && second.ssim > first.ssim, 'more iterations restore better');
  const picture = decodePng(readFileSync(join(out, 'samples.png')), 'samples');
  assert.ok(picture.width > 4 * 56);
  refused([...args, '--iterations', '5,x'], /"x" is not an integer/);
  refused([...args, '--iterations', '5'], /--iterations goes with --restore, which is not given/);
  refused([...args, '--count', '0'], /--count must be at least 1, got 0/);
  refused([...args, '--features', 'none.safetensors', '--data', folder], /Fashion-MNIST is not there/);
});

test.run();
