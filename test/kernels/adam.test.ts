import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { InputError, ShapeError } from '../../src/engine/errors.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { Adam } from '../../src/kernels/adam.ts';
import { assertClose, loadFixture, relativeError, testDevice } from '../support.ts';

const test = suite('adam');
const fixture = loadFixture('adam');
type Settings = { lr: number; betas: [number, number]; eps: number };

for (const [name, attributes] of Object.entries(fixture.cases)) {
  const settings = attributes as Settings;
  const get = (field: string) => fixture.get(`${name}.${field}`);

  test(`${name}: 50 steps like torch.optim.Adam, eager and replayed`, async () => {
    const device = await testDevice();
    const { data: start, shape } = get('start');
    const all = get('gradients').data;
    const gradients = Array.from({ length: 50 }, (_, t) =>
      all.slice(t * start.length, (t + 1) * start.length),
    );

    const eager = device.tensor(start, shape);
    const adam = new Adam(device, eager, settings);
    for (const g of gradients) {
      device.scope(() => adam.step(device.tensor(g, shape)));
      if (g === gradients[0]) assertClose(await eager.floats(), get('first').data, 1e-6, 'first step');
    }
    const result = await eager.floats();
    // Fifty roundings of a value are 50 · 6e-8 at worst; measured 2e-7, as PyTorch's own f32 run.
    assertClose(result, get('double').data, 1e-6, 'parameters');
    assert.ok(relativeError(get('single').data, get('double').data) < 1e-6);
    // The distance moved is judged too: the parameters' size must not hide it.
    const moved = (end: Float32Array) => end.map((v, i) => v - start[i]!);
    assertClose(moved(result), moved(get('double').data), 1e-5, 'distance');
    assertClose(await adam.moments[0]!.m.floats(), get('m').data, 2e-6, 'first moment');
    assertClose(await adam.moments[0]!.v.floats(), get('v').data, 2e-6, 'second moment');
    const [b1, b2] = settings.betas;
    assertClose(await adam.correction.floats(), [1 - b1 ** 50, 1 - b2 ** 50], 1e-6, 'bias corrections');
    assert.equal([...(await adam.count.read())], [50]);

    // A recorded step, replayed: the same bits, so the state went on on the device.
    const replayed = device.tensor(start, shape);
    const gradient = device.tensor(gradients[0]!, shape);
    const other = new Adam(device, replayed, settings);
    const program = device.record('adam', () => other.step([gradient]));
    for (const g of gradients) {
      gradient.write(g);
      program.run();
    }
    assert.equal(await replayed.floats(), result);

    // reset() starts over, with the recorded program too.
    other.reset();
    replayed.write(start);
    for (const g of gradients) {
      gradient.write(g);
      program.run();
    }
    assert.equal(await replayed.floats(), result, 'after reset');
    program.dispose();
    adam.dispose();
    other.dispose();
    for (const t of [eager, replayed, gradient]) t.dispose();
  });
}

test('several parameters, a learning rate that changes between replays, zero gradients', async () => {
  const device = await testDevice();
  const params = [device.zeros([3]), device.zeros([2, 4]), device.full([1], 5)];
  const gradients = [device.full([3], 2), device.full([2, 4], -3), device.zeros([1])];
  const adam = new Adam(device, params, { lr: 0.5 });
  const program = device.record('two', () => adam.step(gradients));
  const read = async () => (await Promise.all(params.map((p) => p.floats()))).map((v) => v[0]!);
  program.run();
  // A first step moves by the learning rate along the sign, and not at all where the gradient is 0.
  assertClose(await read(), [-0.5, 0.5, 5], 1e-6, 'first step');
  adam.setLearningRate(0.25);
  program.run();
  assertClose(await read(), [-0.75, 0.75, 5], 1e-6, 'second step');
  program.dispose();
  adam.dispose();
  for (const t of [...params, ...gradients]) t.dispose();
});

test('its state outlives the scope that made it, and dispose gives all of it back', async () => {
  const device = await testDevice();
  const before = device.memory().tensors;
  const p = device.full([4], 1);
  const adam = device.scope(() => new Adam(device, p, { lr: 1 }));
  device.scope(() => adam.step(device.full([4], 1)));
  assertClose(
    await p.floats(),
    [0, 0, 0, 0].map(() => 0),
    1e-6,
    'step',
  );
  adam.dispose();
  p.dispose();
  assert.is(device.memory().tensors, before);
});

test('errors say which gradient and which option', async () => {
  const device = await testDevice();
  device.scope(() => {
    const p = device.zeros([4]);
    assert.throws(
      () => new Adam(device, p, { lr: -1 }),
      (e: Error) => e instanceof InputError && /lr .* got -1/.test(e.message),
    );
    assert.throws(() => new Adam(device, p, { lr: Number.NaN }), /lr .* got NaN/);
    assert.throws(
      () => new Adam(device, p, { lr: 1, betas: [0.9, 1] }),
      /betas must be in \[0, 1\), got 0.9, 1/,
    );
    assert.throws(() => new Adam(device, device.zeros([1], 'u32'), { lr: 1 }), /parameter 0 \[1\] is u32/);
    const adam = new Adam(device, p as Tensor, { lr: 1 });
    assert.throws(
      () => adam.step([]),
      (e: Error) => e instanceof ShapeError && /0 gradients for 1 parameters/.test(e.message),
    );
    assert.throws(() => adam.step(device.zeros([5])), /gradient 0 is f32 \[5\], the parameter is f32 \[4\]/);
    assert.throws(() => device.record('bad', () => new Adam(device, p, { lr: 1 })), /make it before/);
    adam.dispose();
  });
});

test.run();
