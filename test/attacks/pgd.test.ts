/** PGD against a PyTorch loop (test/fixtures/nets/make_pgd.py), and its bounds. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { defaultStepSize, type Slots } from '../../src/attacks/attack.ts';
import { pgd, randomPoint } from '../../src/attacks/pgd.ts';
import { InputError, ShapeError } from '../../src/engine/errors.ts';
import { ClassifierNet } from '../../src/nets/classifier.ts';
import { wideResNet } from '../../src/nets/wide-resnet.ts';
import { fromNchw, loadFixture, parametersOf, testDevice, toNchw } from '../support.ts';

const test = suite('pgd');

async function setUp() {
  const device = await testDevice();
  const weights = loadFixture('nets/wrn-small');
  const architecture = wideResNet(JSON.parse(weights.metadata.config as string));
  const net = ClassifierNet.load(device, architecture, parametersOf(weights));
  const fixture = loadFixture('nets/pgd');
  const x = device.tensor(...fromNchw(fixture.get('x')));
  const labels = [...fixture.get('labels').data];
  const { eps, stepSize } = JSON.parse(fixture.metadata.options as string) as {
    eps: number;
    stepSize: number;
  };
  return {
    device,
    net,
    fixture,
    x,
    labels,
    options: { eps, stepSize, steps: 5, randomStart: false, seed: 1 },
  };
}

for (const steps of [1, 5]) {
  test(`${steps} steps from the image equal PyTorch's`, async () => {
    const { net, fixture, x, labels, options } = await setUp();
    const adversarial = await pgd(net, x, labels, { ...options, steps });
    const { data, shape } = fixture.get(`adversarial.${steps}`);
    const got = toNchw(await adversarial.floats(), shape);
    // A gradient near zero may have the other sign after rounding, and moves its pixel by two steps.
    const differing = got.filter((v, i) => Math.abs(v - (data[i] as number)) > 1e-5).length;
    assert.ok(differing <= 0.005 * got.length, `${differing} of ${got.length} pixels differ`);
    adversarial.dispose();
    x.dispose();
    net.dispose();
  });
}

test('stays within eps and [0, 1], starts at random, and does not depend on the batch', async () => {
  const { device, net, fixture, x, labels, options } = await setUp();
  const random = { ...options, randomStart: true, steps: 3 };
  const all = await pgd(net, x, labels, random);
  const clean = await x.floats();
  const moved = await all.floats();
  moved.forEach((v, i) => {
    assert.ok(v >= 0 && v <= 1 && Math.abs(v - (clean[i] as number)) <= options.eps + 1e-6);
  });
  const again = await pgd(net, x, labels, random);
  assert.equal(await again.floats(), moved);
  const other = await pgd(net, x, labels, { ...random, seed: 2 });
  assert.not.equal(await other.floats(), moved);

  const { data, shape } = fixture.get('x');
  const size = data.length / (shape[0] as number);
  const third = device.tensor(
    ...fromNchw({ data: data.slice(2 * size, 3 * size), shape: [1, ...shape.slice(1)] }),
  );
  const alone = await pgd(net, third, labels.slice(2, 3), random, { imageIds: [2] });
  const aloneValues = await alone.floats();
  const differing = aloneValues.filter((v, i) => Math.abs(v - (moved[2 * size + i] as number)) > 1e-5).length;
  assert.ok(differing <= 0.005 * size, `${differing} of ${size} pixels differ from those in the batch`);
  for (const t of [all, again, other, third, alone, x]) t.dispose();
  net.dispose();
});

test('the usual mistakes are named', async () => {
  const { net, x, labels, options } = await setUp();
  const refuses = async (
    run: () => Promise<unknown>,
    kind: new (...args: never[]) => Error,
    pattern: RegExp,
  ) => {
    try {
      await run();
    } catch (error) {
      assert.ok(error instanceof kind && pattern.test(error.message), String(error));
      return;
    }
    assert.unreachable(`not refused: ${pattern}`);
  };
  await refuses(
    () => pgd(net, x, labels, { ...options, eps: 8 }),
    InputError,
    /eps must be in \[0, 1\] .* did you mean 8\/255\?/,
  );
  await refuses(
    () => pgd(net, x, labels, { ...options, steps: 0 }),
    InputError,
    /steps must be a positive integer, got 0/,
  );
  await refuses(() => pgd(net, x, [1], options), ShapeError, /1 labels for 4 images/);
  await refuses(() => pgd(net, x, [0, 1, 2, 9], options), ShapeError, /label 9 is outside 0..6/);
  x.dispose();
  net.dispose();
});

test('the default step: 2.5 eps / steps, and never longer than the range of pixels', () => {
  assert.is(defaultStepSize('Linf', 8 / 255, 20), (2.5 * 8) / 255 / 20);
  assert.is(defaultStepSize('Linf', 1, 1), 1);
  assert.is(defaultStepSize('L2', 2, 1), 5);
});

test('a random start in L1 moves the image, also where a uniform number is 0', async () => {
  const device = await testDevice();
  const shape = [1, 32, 32, 3];
  // Seed and image of such a number, one of 2^24, whose logarithm is none.
  const [clean, x, ids] = [device.full(shape, 0.5), device.full(shape, 0.5), device.tensor([11], [1], 'u32')];
  const slots = { job: { device, size: 3072 }, clean, x, ids, batch: 1 } as unknown as Slots;
  randomPoint(slots, 'L1', 12, 92, 0);
  const length = (await x.floats()).reduce((sum, v) => sum + Math.abs(v - 0.5), 0);
  assert.ok(Math.abs(length - 12) < 0.01, String(length));
  for (const tensor of [clean, x, ids]) tensor.dispose();
});

test.run();
