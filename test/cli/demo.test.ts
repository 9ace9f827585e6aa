/** `cmap demo` as a user runs it, and what commands say of a data set without shipped weights. */
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { decodePng } from '../../src/formats/png.ts';
import { writeSafetensors } from '../../src/formats/safetensors.node.ts';
import { network } from '../../src/nets/registry.ts';
import { syntheticCheckpoint } from '../nets/parity.ts';
import { unpackedCifar10 } from '../support-data.ts';
import { commandIn, packageCopy } from './command.ts';

const test = suite('demo');
let folder = '';
test.before(() => {
  folder = mkdtempSync(join(tmpdir(), 'cmap-demo-'));
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

const { cmap, refused } = commandIn(() => folder);
const tiny = ['--count', '2', '--k', '2', '--iterations', '2', '--steps', '2', '--quiet'];

test('bad flags', () => {
  refused(['demo', '--count', 'three'], /"three" is not an integer/);
  refused(['demo', '--count', '0'], /--count must be at least 1, got 0/);
  refused(['demo', '--count', '5000'], /5000 images from 0 on are not there; the package holds 1000/);
  refused(
    ['demo', '--eps', '8', '--count', '1'],
    /eps must be in \[0, 1\] pixel units, got 8; did you mean 8\/255\?/,
  );
  refused(['demo', '--k', '0'], /k must be an integer of at least 2 .*, got 0/);
  refused(['demo', '--dataset', 'mnist'], /'mnist' is invalid.*cifar10, fashion-mnist/);
});

test('an output folder that cannot be made', () => {
  const file = join(folder, 'file');
  writeFileSync(file, '');
  refused(['demo', '--count', '1', '--out', join(file, 'below')], /not a folder/);
});

/** Runs the demo on two images and a few steps. */
function demo(args: string[], at?: string) {
  const out = join(folder, 'out', String(args.length));
  const run = cmap(['demo', ...tiny, ...args, '--out', out], at);
  assert.is(run.status, 0, run.lines.join('\n'));
  const summary = JSON.parse(readFileSync(join(out, 'summary.json'), 'utf8'));
  for (const field of ['cleanAccuracy', 'attackedAccuracy', 'purifiedAccuracy', 'defendedCleanAccuracy']) {
    assert.ok(summary[field] >= 0 && summary[field] <= 1, field);
  }
  assert.is(summary.count, 2);
  assert.is(summary.images.length, 2);
  const { votes } = summary.images[1].defendedAttacked;
  assert.is(
    votes.reduce((a: number, b: number) => a + b, 0),
    2,
  );
  assert.ok(summary.eps > 0 && summary.seconds > 0 && summary.adapter.length > 0);
  assert.ok(summary.attack.linf > 0 && summary.attack.linf <= summary.eps);
  const grid = decodePng(readFileSync(join(out, 'grid.png')), 'grid');
  assert.ok(grid.width > 300 && grid.height > 200);
  assert.match(readFileSync(join(out, 'trace.svg'), 'utf8'), /^<svg/);
  assert.match(run.stdout, /clean, no defence .*%/);
  return { summary, stdout: run.stdout };
}

test('the demo writes its summary, grid and trace', () => {
  demo([]);
});

test('CIFAR-10: without shipped weights one line says how to train them, with them the demo runs', async () => {
  const copy = packageCopy(join(folder, 'copy'));
  const path = join(copy, 'weights', 'manifest.json');
  const manifest = JSON.parse(readFileSync(path, 'utf8'));
  const { cifar10: _, ...presets } = manifest.presets;
  const save = (more: object) => writeFileSync(path, JSON.stringify({ ...manifest, ...more }));
  save({ presets });
  const how = /for cifar10: .*train it with python3 weights\/train\/cifar10\.py/;
  refused(['demo', '--dataset', 'cifar10'], how, copy);
  const image = join(folder, 'any.png');
  refused(['classify', '--dataset', 'cifar10', '--no-defence', image], how, copy);
  refused(['purify', '--dataset', 'cifar10', image], how, copy);
  assert.not(existsSync(join(folder, 'out', 'purify')));

  // Weights made by a formula, as export would have written them.
  const entry = (name: string, kind: string, config: Record<string, unknown>) => {
    const net = network({ ncsnpp: 'ncsnpp', wide_resnet: 'wrn' }[kind] as string, config);
    const source = syntheticCheckpoint(
      net.kind === 'classifier' ? net.architecture.parameters : net.unet.parameters,
    );
    const file = join(copy, 'weights', `${name}.safetensors`);
    writeSafetensors(
      file,
      Object.fromEntries(source.names.map((n) => [n, { shape: source.shape(n), data: source.floats(n) }])),
    );
    const sha256 = createHash('sha256').update(readFileSync(file)).digest('hex');
    return { file: `${name}.safetensors`, bytes: statSync(file).size, sha256, kind, config };
  };
  const preset = {
    ...{ generator: 'tiny-generator', classifier: 'tiny-classifier', eps: 8 / 255 },
    ...{ k: 2, iterations: 2, lr: 2, alpha: 2, lambda: 5e-4, pgdSteps: 2, pgdStep: 2 / 255 },
  };
  save({ presets: { ...presets, cifar10: preset } });
  refused(['demo', '--dataset', 'cifar10'], /has no entry "tiny-classifier"; train it/, copy);
  const wrn = { depth: 10, widen_factor: 1, num_classes: 10, in_channels: 3, image_size: 32 };
  const ncsnpp = { nf: 16, ch_mult: [1], num_res_blocks: 1, attn_resolutions: [], fourier_scale: 1 };
  save({
    presets: { ...presets, cifar10: preset },
    'tiny-classifier': entry('tiny-classifier', 'wide_resnet', wrn),
    'tiny-generator': entry('tiny-generator', 'ncsnpp', {
      ...ncsnpp,
      ...{ image_size: 32, num_channels: 3, patch_size: 4, dropout: 0 },
    }),
  });
  refused(['demo', ...tiny, '--dataset', 'cifar10', '--data', folder], /CIFAR-10 is not there/, copy);
  const data = await unpackedCifar10('test');
  if (!data) return;
  const { summary, stdout } = demo(['--dataset', 'cifar10', '--data', data], copy);
  assert.match(stdout, /CIFAR-10 test images/);
  assert.is(summary.classifier, 'tiny-classifier');
  assert.is(summary.model, 'tiny-generator');
  assert.equal(
    summary.images.map((i: { label: number }) => i.label),
    [3, 8],
    'the first labels of the test set',
  );
});

test.run();
