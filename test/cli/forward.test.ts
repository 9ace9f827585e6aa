/** `cmap forward` and `cmap purify --input`: files in, files out, against PyTorch's numbers. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { readNpy, writeNpy } from '../../src/formats/npy.ts';
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.node.ts';
import { writeSyntheticCheckpoint } from '../nets/parity.ts';
import { assertClose, type Fixture, loadFixture, root, sharedData } from '../support.ts';
import { commandIn } from './command.ts';

const test = suite('forward');
const folder = mkdtempSync(join(tmpdir(), 'cmap-forward-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));
const { cmap, refused } = commandIn(folder);
const at = (name: string) => join(folder, name);
const write = (name: string, { data, shape }: { data: Float32Array; shape: readonly number[] }) =>
  writeNpy(at(name), { data, shape });
const read = (name: string) => readNpy(at(name)).data as Float32Array;
const json = (name: string, value: unknown) => writeFileSync(at(name), JSON.stringify(value));

const weights = (name: string, config: Record<string, unknown>, file: string) =>
  writeSyntheticCheckpoint(at(file), name, config);

function ok(args: string[]): string {
  const { status, stdout, lines } = cmap(args);
  assert.is(status, 0, lines.join('\n'));
  return stdout;
}

test('a consistency model: f(x, σ) before clipping, and its gradient', () => {
  const fixture = loadFixture('nets/small/ncsnpp-tiny');
  const config = JSON.parse(fixture.metadata.config as string);
  json('net.json', config);
  weights('ncsnpp', config, 'ncsnpp.safetensors');
  const net = ['--net', 'ncsnpp', '--net-config', 'net.json', '--weights', 'ncsnpp.safetensors', '-q'];
  write('c.npy', fixture.get('cotangent'));
  for (const sigma of ['80', '0.1395']) {
    write('x.npy', fixture.get(`x.${sigma}`));
    const gradient = ['--cotangent', 'c.npy', '--grad', 'g.npy'];
    ok(['forward', ...net, '--input', 'x.npy', '--output', 'y.npy', '--sigma', sigma, ...gradient]);
    assertClose(read('y.npy'), fixture.get(`y.${sigma}`).data, 2e-5, 'y');
    assertClose(read('g.npy'), fixture.get(`dx.${sigma}`).data, 5e-5, 'gradient');
  }
  // One image at a time, with activation checkpointing: the same.
  ok([
    ...['forward', ...net, '--input', 'x.npy', '--output', 'y1.npy', '--sigma', '0.1395', '--batch', '1'],
    ...['--recompute', '--cotangent', 'c.npy', '--grad', 'g1.npy'],
  ]);
  assertClose(read('y1.npy'), read('y.npy'), 1e-6, 'y by single images');
  assertClose(read('g1.npy'), read('g.npy'), 1e-5, 'gradient by single images');
  assert.equal(readNpy(at('g.npy')).shape, fixture.get('x.80').shape);
});

test('an EDM denoiser, shipped or trained here, has no boundary at σ_min, and purifies nothing', () => {
  write('f.npy', {
    data: Float32Array.from({ length: 784 }, (_, i) => 0.5 + Math.sin(i) / 2),
    shape: [1, 1, 28, 28],
  });
  json('zero.json', { t_min: 0 });
  const forward = ['forward', '--input', 'f.npy', '--sigma', '0.05', '-q'];
  ok([...forward, '--weights', 'fashion-mnist-edm', '--output', 'd.npy']);
  ok([...forward, '--weights', 'fashion-mnist-edm', '--net-config', 'zero.json', '--output', 'd0.npy']);
  assert.equal(read('d.npy'), read('d0.npy'));
  // What cmap train writes beside its tensors.
  const source = openSafetensors(join(root, 'weights', 'fashion-mnist-edm.safetensors'));
  const tensors = Object.fromEntries(
    source.names.map((name) => [name, { data: source.read(name), shape: source.shape(name) }]),
  );
  source.close();
  writeSafetensors(at('trained.safetensors'), tensors, { config: JSON.stringify({ task: 'edm' }) });
  // ECT keeps the denoiser's scalings.
  writeSafetensors(at('ect.safetensors'), tensors, { config: JSON.stringify({ task: 'ect' }) });
  writeSafetensors(at('unsaid.safetensors'), tensors);
  for (const name of ['trained', 'ect', 'unsaid'])
    ok([
      ...forward,
      '--net',
      'fashion-mnist-edm',
      '--weights',
      `${name}.safetensors`,
      '--output',
      `${name}.npy`,
    ]);
  assert.equal(read('trained.npy'), read('d.npy'));
  assert.equal(read('ect.npy'), read('d.npy'));
  assert.not.equal(read('unsaid.npy'), read('d.npy'));
  refused(
    ['purify', '--input', 'f.npy', '--weights', 'fashion-mnist-edm', '--k', '2', '--iterations', '1'],
    /--weights fashion-mnist-edm: an EDM denoiser; a consistency model is wanted/,
  );
  refused(['purify', '--input', 'f.npy', '--out', 'nowhere'], /--out goes with image files/);
  refused(['purify', 'boot.png', '--prefix', 'ema'], /--prefix goes with --input/);
});

test('a class-conditional model and a score network', () => {
  const conditional = loadFixture('nets/small/adm-small-cond');
  const config = JSON.parse(conditional.metadata.config as string);
  json('adm.json', config);
  weights('adm', config, 'adm.safetensors');
  write('x.npy', conditional.get('x.80'));
  const adm = ['--net', 'adm', '--net-config', 'adm.json', '--weights', 'adm.safetensors', '-q'];
  const labels = [...conditional.get('labels').data].join(',');
  ok(['forward', ...adm, '--input', 'x.npy', '--output', 'y.npy', '--sigma', '80', '--labels', labels]);
  assertClose(read('y.npy'), conditional.get('y.80').data, 1e-4, 'y');
  refused(
    ['forward', ...adm, '--input', 'x.npy', '--output', 'n.npy', '--sigma', '80'],
    /--labels: 0 classes for 2 images/,
  );

  const score = loadFixture('nets/small/improved-small');
  const improved = JSON.parse(score.metadata.config as string);
  json('improved.json', improved);
  weights('improved-diffusion', improved, 'improved.safetensors');
  write('x.npy', score.get('x'));
  const [time] = score.names.filter((name) => name.startsWith('y.')).map((name) => name.slice(2));
  const net = [
    '--net',
    'improved-diffusion',
    '--net-config',
    'improved.json',
    '--weights',
    'improved.safetensors',
  ];
  ok(['forward', ...net, '-q', '--input', 'x.npy', '--output', 'y.npy', '--time', time as string]);
  assert.equal(readNpy(at('y.npy')).shape, score.get(`y.${time}`).shape, 'noise and variance');
  assertClose(read('y.npy'), score.get(`y.${time}`).data, 1e-4, 'y');
});

test('a classifier in [0, 1]; its class count comes from the checkpoint', () => {
  const fixture = loadFixture('nets/small/resnet-small');
  weights('resnet', { layers: [1, 1, 1, 1], num_classes: 7 }, 'resnet.safetensors');
  json('resnet.json', { layers: [1, 1, 1, 1] });
  write('x.npy', fixture.get('x'));
  write('c.npy', fixture.get('cotangent'));
  ok(
    [
      'forward',
      '--net',
      'resnet',
      '--net-config',
      'resnet.json',
      '--weights',
      'resnet.safetensors',
      '-q',
    ].concat(['--input', 'x.npy', '--output', 'y.npy', '--cotangent', 'c.npy', '--grad', 'g.npy']),
  );
  assert.equal(readNpy(at('y.npy')).shape, [2, 7]);
  assertClose(read('y.npy'), fixture.get('y').data, 1e-5, 'logits');
  assertClose(read('g.npy'), fixture.get('dx').data, 1e-3, 'gradient');
});

/** The options of the fixture's run of reference/cmap.py. */
function purifyArguments(fixture: Fixture): string[] {
  json('cmap.json', JSON.parse(fixture.metadata.config as string));
  const names = fixture.names.filter((name) => name.startsWith('params.'));
  writeSafetensors(
    at('cmap.safetensors'),
    Object.fromEntries(names.map((name) => [name, fixture.get(name)])),
  );
  write('x.npy', fixture.get('x'));
  write('z0.npy', fixture.get('z0'));
  const o = JSON.parse(fixture.metadata.options as string);
  const numbers = { k: o.k, iterations: o.iterations, lr: o.lr, alpha: o.alpha, lambda: o.lambda };
  return ['purify', '-q', '--net', 'ncsnpp', '--net-config', 'cmap.json', '--weights', 'cmap.safetensors']
    .concat(['--input', 'x.npy', '--init-latents', 'z0.npy'])
    .concat(Object.entries(numbers).flatMap(([name, value]) => [`--${name}`, String(value)]));
}

test('purify: trace, latents and images of PyTorch', () => {
  const fixture = loadFixture('nets/cmap-trace');
  const out = ['--trace', 'trace.json', '--latents-out', 'z.npy', '--images-out', 'g.npy'];
  const args = purifyArguments(fixture);
  ok([...args, ...out]);
  const trace = JSON.parse(readFileSync(at('trace.json'), 'utf8')) as Record<string, number>[][];
  const fields = ['total', 'mae', 'ssim', 'constraint'];
  assert.equal(Object.keys(trace[0]![0]!), fields);
  const flat = trace.flat().flatMap((entry) => fields.map((field) => entry[field] as number));
  assertClose(flat, fixture.get('trace').data, 1e-4, 'trace');
  assert.equal(readNpy(at('z.npy')).shape, fixture.get('latents').shape);
  assertClose(read('z.npy'), fixture.get('latents').data, 1e-4, 'latents');
  assertClose(read('g.npy'), fixture.get('images').data, 1e-3, 'images');
  // An image's result does not depend on its batch.
  ok([...args, '--batch', '1', '--latents-out', 'z1.npy']);
  assertClose(read('z1.npy'), read('z.npy'), 1e-5, 'latents by single images');
});

test('a real checkpoint in legacy pickle classifies as PyTorch does', () => {
  const data = sharedData();
  if (!data) return console.log('  skipped: no shared data (set CMAP_TEST_DATA)');
  const image = Float32Array.from({ length: 3072 }, (_, i) => 0.5 + 0.5 * Math.sin(i / 7));
  write('x.npy', { data: image, shape: [1, 3, 32, 32] });
  const [net, input] = [
    ['forward', '-q', '--net', 'resnet20'],
    ['--input', 'x.npy'],
  ];
  ok([...net, '--weights', `${data}/cifar_resnet/resnet20-12fca82f.th`, ...input, '--output', 'a.npy']);
  ok([
    ...net,
    '--weights',
    `${data}/cifar_resnet/resnet20-12fca82f.safetensors`,
    ...input,
    '--output',
    'b.npy',
  ]);
  assert.equal(read('a.npy'), read('b.npy'));
  refused(
    [
      'forward',
      '--net',
      'resnet32',
      '--weights',
      `${data}/cifar_resnet/resnet20-12fca82f.th`,
      ...input,
      '--output',
      'n.npy',
    ],
    /does not fit the network: .*layer1\.3\.conv1\.weight \[16,16,3,3\] is missing/,
  );
});

test('mistakes: one line, nothing written', () => {
  const fixture = loadFixture('nets/small/ncsnpp-tiny');
  json('net.json', JSON.parse(fixture.metadata.config as string));
  weights('ncsnpp', JSON.parse(fixture.metadata.config as string), 'ncsnpp.safetensors');
  write('x.npy', fixture.get('x.80'));
  const net = ['--net', 'ncsnpp', '--net-config', 'net.json', '--weights', 'ncsnpp.safetensors'];
  const io = ['--input', 'x.npy', '--output', 'none.npy'];
  refused(['forward', ...net, ...io], /--sigma is missing/);
  refused(['forward', ...net, ...io, '--sigma', '-1'], /--sigma must be positive, got -1/);
  refused(
    ['forward', ...net, ...io, '--sigma', '80', '--grad', 'g9.npy'],
    /--cotangent and --grad belong together/,
  );
  refused(['forward', ...io, '--sigma', '80'], /--weights is missing/);
  refused(['forward', '--weights', 'ncsnpp.safetensors', ...io], /--net is missing: one of ncsnpp-cifar10/);
  refused(
    ['forward', '--net', 'resnet20', '--weights', 'ncsnpp.safetensors', ...io],
    /ncsnpp\.safetensors: does not fit the network/,
  );
  refused(
    ['forward', ...net, '--input', 'nothing.npy', '--output', 'none.npy', '--sigma', '80'],
    /nothing\.npy: cannot read it/,
  );
  write('flat.npy', { data: new Float32Array(12), shape: [3, 4] });
  refused(
    ['forward', ...net, '--input', 'flat.npy', '--output', 'none.npy', '--sigma', '80'],
    /flat\.npy: shape \(3, 4\) is not \(N, C, H, W\)/,
  );
  write('wide.npy', { data: new Float32Array(3 * 32 * 32), shape: [1, 3, 32, 32] });
  refused(
    ['forward', ...net, '--input', 'wide.npy', '--output', 'none.npy', '--sigma', '80'],
    /images are \(3, 32, 32\), the network wants \(3, 16, 16\)/,
  );
  write('nan.npy', { data: new Float32Array(768).fill(Number.NaN), shape: [1, 3, 16, 16] });
  refused(
    ['forward', ...net, '--input', 'nan.npy', '--output', 'none.npy', '--sigma', '80'],
    /nan\.npy: element 0 of 768 is NaN/,
  );
  write('c.npy', { data: new Float32Array(4), shape: [2, 2] });
  refused(
    ['forward', ...net, ...io, '--sigma', '80', '--cotangent', 'c.npy', '--grad', 'g9.npy'],
    /c\.npy: shape \(2, 2\), the output is \(2, 3, 16, 16\)/,
  );
  refused(['purify', ...net, '--input', 'x.npy'], /x\.npy: holds .*; images must lie in \[0, 1\]/);
  refused(['purify', '--trace', 't.json', 'a.png'], /--trace goes with --input/);
  refused(['purify'], /no images: name PNG or JPEG files, or an array with --input/);
  assert.not(existsSync(at('none.npy')) || existsSync(at('g9.npy')));
});

test.run();
