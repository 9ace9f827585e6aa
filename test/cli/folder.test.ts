/** `cmap eval` and what reads its folder on a data set that is a folder of images, with networks that are files. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { readEvaluation } from '../../src/eval/store.ts';
import { encodePng } from '../../src/formats/png.ts';
import { writeSyntheticCheckpoint } from '../nets/parity.ts';
import { loadFixture } from '../support.ts';
import { commandIn } from './command.ts';

const test = suite('cli image folder');
const folder = mkdtempSync(join(tmpdir(), 'cmap-folder-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));
const { cmap, refused } = commandIn(folder);
const at = (...names: string[]) => join(folder, ...names);

const classes = ['n01', 'n02', 'n03'];
const side = 16;
test.before(() => {
  for (const [c, name] of classes.entries()) {
    mkdirSync(at('images', 'val.X', name), { recursive: true });
    for (const i of [0, 1]) {
      const data = Uint8Array.from({ length: 20 * 24 * 3 }, (_, p) => (p * (c + 2) + 50 * i) % 256);
      writeFileSync(
        at('images', 'val.X', name, `${i}.png`),
        encodePng({ width: 24, height: 20, channels: 3, data }),
      );
    }
  }
  const labels = { n01: 'tench, Tinca tinca', n02: 'goldfish', n03: 'hen' };
  writeFileSync(at('images', 'Labels.json'), JSON.stringify(labels));
  const resnet = { layers: [1, 1, 1, 1], width_per_group: 64, num_classes: 3, image_size: side };
  const generator = JSON.parse(loadFixture('nets/small/ncsnpp-tiny').metadata.config as string);
  for (const [name, config, family] of [
    ['classifier', resnet, 'resnet'],
    ['generator', generator, 'ncsnpp'],
  ] as const) {
    writeFileSync(at(`${name}.json`), JSON.stringify(config));
    writeSyntheticCheckpoint(at(`${name}.safetensors`), family, config);
  }
});

const data = ['--dataset', 'image-folder', '--data', 'images', '--image-size', `${side}`];
const networks = [
  ...['--classifier', 'resnet', '--weights', 'classifier.safetensors', '--net-config', 'classifier.json'],
  ...[
    '--model',
    'ncsnpp',
    '--generator-weights',
    'generator.safetensors',
    '--generator-config',
    'generator.json',
  ],
];

test('CMAP on the paper’s choice of a folder’s images: evaluated and drawn', () => {
  const args = [
    '--attack',
    'fgsm',
    '--subset',
    'paper',
    '--count',
    '2',
    '--k',
    '2',
    '--iterations',
    '2',
    '--eval-runs',
    '1',
  ];
  const run = cmap(['eval', ...data, ...networks, '--defence', 'cmap', ...args, '--out', 'out', '-q']);
  assert.is(run.status, 0, run.lines.join('\n'));
  const { config, records } = readEvaluation(at('out'));
  assert.is(config.dataset, 'images 16x16');
  // NumPy: RandomState(0).choice(6, 2, replace=False); two images a class.
  assert.equal(config.images, [5, 2]);
  const unattacked = records.filter(({ attack }) => attack === 'none');
  assert.equal(
    unattacked.map(({ label }) => label),
    [2, 1],
  );
  // What is not given is the paper's for ImageNet-100.
  assert.is(config.eps, 4 / 255);
  const { alpha, lambda } = config.defence.settings;
  assert.equal({ alpha, lambda }, { alpha: 0.5, lambda: 2e-4 });
  // What opens it again knows the size.
  assert.is(cmap(['grid', 'out']).status, 0);
});

test('bad input', () => {
  const classifier = networks.slice(0, 6);
  refused(
    ['eval', ...data.slice(0, 2), ...classifier],
    /image-folder wants --data DIR, which holds val\/CLASS/,
  );
  refused(
    ['eval', '--dataset', 'cifar10', '--image-size', '32'],
    /--image-size is for --dataset image-folder/,
  );
  refused(['eval', ...data.slice(0, 4), '--image-size', '0', ...classifier], /must be at least 1, got 0/);
  refused(
    ['eval', ...data, ...classifier, '--count', '7'],
    /images: image 6 is not there; the folder holds 6/,
  );
  refused(['eval', ...data, '--count', '2'], /no classifier is shipped for image-folder.*--classifier/);
  refused(
    ['eval', ...data.slice(0, 4), ...classifier, '--count', '2'],
    /takes images of \[16,16,3\], the data set has \[64,64,3\]/,
  );
  refused(
    [
      'eval',
      '--dataset',
      'image-folder',
      '--data',
      'images',
      '--classifier',
      'cifar10-wrn',
      '--image-size',
      '32',
      '--count',
      '2',
    ],
    /--classifier cifar10-wrn: decides among 10 classes, images 32x32 has 3; give a classifier of these/,
  );
});

test.run();
