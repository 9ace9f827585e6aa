/** Geometric augmentation against torch's grid_sample, and a network that is told of it: fixtures/train/augment.py. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { purposes } from '../../src/engine/random.ts';
import { ConsistencyModel, publishedSigmas } from '../../src/nets/consistency.ts';
import { ncsnpp } from '../../src/nets/ncsnpp.ts';
import { bindParameters } from '../../src/nets/parameters.ts';
import { type Affine, augment, augmentLabels, changed, drawChange } from '../../src/train/augment.ts';
import { Batches } from '../../src/train/batches.ts';
import { EdmRecipe } from '../../src/train/edm.ts';
import { TrainingStep } from '../../src/train/step.ts';
import { ParameterStore } from '../../src/train/store.ts';
import { syntheticCheckpoint } from '../nets/parity.ts';
import { assertClose, lcg, loadFixture, testDevice } from '../support.ts';

const test = suite('augmentation');
const fixture = loadFixture('train/augment');

for (const [name, attributes] of Object.entries(fixture.cases)) {
  if (name === 'net') continue;
  test(name, () => {
    const { mirror, upsideDown, inverse } = attributes as {
      mirror: boolean;
      upsideDown: boolean;
      inverse: Affine | null;
    };
    const { data, shape } = fixture.get(`${name}.x`);
    const change = { mirror, upsideDown, inverse, labels: [] };
    const y = changed(data, shape as [number, number, number], change);
    assertClose(y, fixture.get(`${name}.y`).data, 1e-6, name);
  });
}

test('the matrix is that of the drawn numbers, the labels are EDM’s nine', () => {
  let seen = 0;
  for (let row = 0; row < 40; row++) {
    const counter = { seed: 4, purpose: purposes.augmentation + 256, step: 2, row };
    const { labels, inverse } = drawChange(0.9, 12, 9, counter);
    if (!inverse) continue;
    seen++;
    assert.is(labels.length, augmentLabels);
    const [, , size, cosine, sine, along, across, right, down] = labels as [
      ...[number, number, number, number, number],
      ...[number, number, number, number],
    ];
    // Area and shift can be read off the labels.
    const [a, b, c, d, e, f] = inverse;
    assert.ok(Math.abs(a * e - b * d - 4 ** (-0.2 * size)) < 1e-12, 'area');
    const s = 2 ** (-0.2 * size);
    const turn = (x: number, y: number, co: number, si: number) =>
      [co * x - si * y, si * x + co * y] as const;
    const place = (stretch: number, direction: number) => {
      const [co, si] = [Math.cos(direction), Math.sin(direction)];
      let [x, y] = turn((-right * 12) / 8, (-down * 9) / 8, co, si);
      [x, y] = turn(x / 2 ** (0.2 * stretch), y * 2 ** (0.2 * stretch), co, -si);
      [x, y] = turn(x, y, 1 + cosine, sine);
      return Math.hypot(s * x - c, s * y - f);
    };
    // The published labels do not tell a stretch along a direction from a squeeze along the opposite one.
    const [stretch, direction] = [Math.hypot(along, across), Math.atan2(across, along)];
    const off = Math.min(place(stretch, direction), place(-stretch, direction + Math.PI));
    assert.ok(off < 1e-9, `the shift is off by ${off}`);
  }
  assert.ok(seen > 30, `${seen}`);
});

test('a change happens as often as asked, by the counter; at probability 0 only mirrors', () => {
  const shape = [8, 8, 1] as const;
  const random = lcg(2);
  const images = Float32Array.from({ length: 400 * 64 }, () => random());
  const of = (probability: number) => {
    const copy = images.slice();
    const labels = augment(copy, shape, { probability, seed: 1, step: 3 });
    return { copy, labels };
  };
  const share = (labels: Float32Array, k: number) =>
    Array.from({ length: 400 }, (_, i) => labels[i * 9 + k]!).filter((v) => v !== 0).length / 400;
  const none = of(0);
  for (let k = 1; k < 9; k++) assert.is(share(none.labels, k), 0);
  // Four standard deviations of 400 draws.
  assert.ok(Math.abs(share(none.labels, 0) - 0.5) < 0.1);
  for (let i = 0; i < 400; i++) {
    const row = none.copy.subarray(i * 64, i * 64 + 8);
    const was = [...images.subarray(i * 64, i * 64 + 8)];
    assert.equal([...row], none.labels[i * 9] ? was.reverse() : was);
  }
  const some = of(0.3);
  for (const k of [2, 3, 5, 7]) assert.ok(Math.abs(share(some.labels, k) - 0.3) < 0.092, `${k}`);
  assert.ok(Math.abs(share(some.labels, 1) - 0.15) < 0.072);
  assert.equal(of(0.3), some, 'the same again');
});

test('the network adds W·labels to the embedding, as PyTorch; without labels it is the network without W', async () => {
  const device = await testDevice();
  const { net, sigma } = fixture.cases.net as { net: object; sigma: number[] };
  const told = ncsnpp({ ...net, augment_dim: 9 });
  const plain = ncsnpp(net);
  const p = bindParameters(device, told.parameters, syntheticCheckpoint(told.parameters));
  const { data, shape } = fixture.get('net.x');
  const x = device.tensor(data, shape);
  const labels = device.tensor(fixture.get('net.labels').data, [3, 9]);
  const times = device.tensor(told.waves(p, sigma.map(told.timeOf)), [3, 16]);
  const run = (unet: typeof told, given?: typeof labels) =>
    device.scope(() => unet.forward(p, x, unet.embed(device, p, times, undefined, given)));
  const results = [run(told, labels), run(told), run(plain)];
  const [y, silent, without] = await Promise.all(results.map((t) => t.floats()));
  assertClose(y!, fixture.get('net.y').data, 5e-6, 'y');
  assert.equal(silent, without);
  const model = new ConsistencyModel(device, told, p, { sigmas: publishedSigmas });
  const sample = device.scope(() => model.denoise(x, 3));
  assert.ok((await sample.floats()).every(Number.isFinite), 'sampled without labels');
  for (const t of [...results, sample, x, labels, times, model]) t.dispose();
});

test('a denoiser learns with it: W moves', async () => {
  const device = await testDevice();
  const before = device.memory().tensors;
  const unet = ncsnpp({ ...(fixture.cases.net as { net: object }).net, augment_dim: 9 });
  const store = new ParameterStore(device, unet.parameters, syntheticCheckpoint(unet.parameters));
  const random = lcg(8);
  const images = Uint8Array.from({ length: 256 }, () => 127 * (1 + random()));
  const set = { name: 'noise', images, labels: [0, 1, 2, 3], shape: [4, 8, 8, 1] as const };
  const options = { batch: 4, seed: 1, sigmas: publishedSigmas, logMean: 0, logStd: 1, augment: 0.5 };
  const source = new Batches(set, { ...options, signed: true });
  const recipe = new EdmRecipe(device, unet, store, source, options);
  const step = new TrainingStep(store, recipe, {
    rate: { lr: 1e-3, schedule: 'constant', warmup: 0, steps: 3 },
    optimiser: { kind: 'adam' },
    averages: [],
    traceLength: 3,
  });
  const weight = () => store.parameters.get('map_augment.weight').floats();
  const was = await weight();
  for (let t = 0; t < 3; t++) step.run(t);
  const is = await weight();
  const moved = Math.max(...is.map((v, i) => Math.abs(v - was[i]!)));
  assert.ok(moved > 1e-4 && moved < 1e-2, `${moved}`);
  for (const part of [step, recipe, store]) part.dispose();
  assert.is(device.memory().tensors, before, 'nothing is left behind');
});

test.run();
