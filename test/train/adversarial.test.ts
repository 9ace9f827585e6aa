import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { valueAndGrad } from '../../src/engine/autograd.ts';
import { purposes } from '../../src/engine/random.ts';
import { crossEntropy } from '../../src/kernels/cross-entropy.ts';
import { mean, sum } from '../../src/kernels/reduce.ts';
import { ClassifierNet } from '../../src/nets/classifier.ts';
import { wideResNet } from '../../src/nets/wide-resnet.ts';
import type { BatchSource } from '../../src/train/batches.ts';
import { type ClassifierOptions, ClassifierRecipe, divergence } from '../../src/train/classifier.ts';
import { beta, uniforms } from '../../src/train/draws.ts';
import { TrainingStep } from '../../src/train/step.ts';
import { ParameterStore } from '../../src/train/store.ts';
import { syntheticCheckpoint } from '../nets/parity.ts';
import { assertClose, lcg, testDevice } from '../support.ts';

const test = suite('classifier losses');
const [batch, side] = [4, 8];
const random = lcg(3);
/** Away from 0 and 1, where attacks would be cut. */
const images = Float32Array.from({ length: batch * side * side }, () => 0.5 + 0.3 * random());
const labels = Uint32Array.of(3, 1, 4, 9);
const source: BatchSource = { at: () => ({ images, labels }) };

async function setUp() {
  const device = await testDevice();
  const architecture = wideResNet({ depth: 10, widen_factor: 1, in_channels: 1, image_size: side });
  const store = new ParameterStore(
    device,
    architecture.parameters,
    syntheticCheckpoint(architecture.parameters),
  );
  const net = new ClassifierNet(device, architecture, store.parameters);
  /** The mean loss with running statistics, as the attack sees them. */
  const loss = async (options: Partial<ClassifierOptions>, step = 0) => {
    const recipe = new ClassifierRecipe(net, store, source, { batch, seed: 1, ...options });
    recipe.load(step);
    const value = device.scope(() => mean(recipe.loss(store.parameters, { first: 0, count: batch })));
    const [result] = await value.floats();
    value.dispose();
    recipe.dispose();
    return result as number;
  };
  return { device, store, net, loss };
}

test('PGD reaches the corner of a small ball, where the loss is first order; TRADES adds beta times the divergence', async () => {
  const { device, store, net, loss } = await setUp();
  const plain = await loss({});
  const x = device.tensor(images, [batch, side, side, 1]);
  const y = device.tensor(labels, [batch], 'u32');
  const gradient = device.scope(
    () => valueAndGrad((u) => sum(crossEntropy(net.logits(u), y)), [x]).gradients[0]!,
  );
  const slope = (await gradient.floats()).reduce((total, g) => total + Math.abs(g), 0) / batch;
  const eps = 2e-4;
  const attack = { method: 'pgd' as const, eps, steps: 2, stepSize: 2 * eps };
  const gain = (await loss({ adversarial: attack })) - plain;
  // Σ|∂L/∂x| eps; a few units of the ReLUs change side within the ball.
  assert.ok(Math.abs(gain / (eps * slope) - 1) < 0.05, `gain ${gain}, first order ${eps * slope}`);

  const trades = { ...attack, method: 'trades' as const, eps: 0.05, stepSize: 0.02, steps: 3 };
  const [one, six] = [
    await loss({ adversarial: { ...trades, beta: 1 } }),
    await loss({ adversarial: trades }),
  ];
  assert.ok(one > plain);
  // To a unit in the last place of each loss.
  assert.ok(Math.abs(six - plain - 6 * (one - plain)) < 12 * 2 ** -22, `${plain} ${one} ${six}`);
  for (const t of [x, y, gradient]) t.dispose();
  store.dispose();
});

test('the divergence of two softmaxes', async () => {
  const device = await testDevice();
  const [a, b] = [
    [1, 2, 0.5, -1, 0, 3],
    [0, 1, 1, 2, -2, 0.3],
  ];
  const softmax = (z: number[]) => {
    const e = z.map(Math.exp);
    return e.map((v) => v / e.reduce((p, q) => p + q));
  };
  const want = [0, 3].map((at) => {
    const [p, q] = [softmax(a.slice(at, at + 3)), softmax(b.slice(at, at + 3))];
    return p.reduce((total, v, i) => total + v * Math.log(v / q[i]!), 0);
  });
  const kl = device.scope(() => divergence(device.tensor(a, [2, 3]), device.tensor(b, [2, 3])));
  assertClose(await kl.floats(), want, 1e-6, 'KL');
  kl.dispose();
});

test('mixup: both labels, by the share of their images', async () => {
  const { device, store, net, loss } = await setUp();
  const step = 5;
  const draw = uniforms({ seed: 1, purpose: purposes.trainingLevel, step, row: 0 });
  const share = beta(0.7, draw);
  const distance = 1 + Math.floor(draw.next().value * (batch - 1));
  const size = side * side;
  const partner = (i: number) => (i + distance) % batch;
  const mixed = images.map(
    (v, i) => share * v + (1 - share) * images[partner(Math.floor(i / size)) * size + (i % size)]!,
  );
  const logits = device.scope(() => net.logits(device.tensor(mixed, [batch, side, side, 1])));
  const z = await logits.floats();
  const ce = (i: number, label: number) => {
    const row = [...z.subarray(10 * i, 10 * i + 10)];
    return Math.log(row.reduce((total, v) => total + Math.exp(v), 0)) - row[label]!;
  };
  let want = 0;
  for (let i = 0; i < batch; i++)
    want += (share * ce(i, labels[i]!) + (1 - share) * ce(i, labels[partner(i)]!)) / batch;
  assertClose([await loss({ mixup: 0.7 }, step)], [want], 1e-5, 'loss');
  assert.ok(share > 0.01 && share < 0.99, 'the share shows');
  logits.dispose();
  store.dispose();
});

test('an adversarial step is one program: the loss falls and running statistics move', async () => {
  const { device, store, net } = await setUp();
  const before = device.memory().tensors;
  const adversarial = { method: 'pgd' as const, eps: 8 / 255, steps: 2, stepSize: 4 / 255 };
  const recipe = new ClassifierRecipe(net, store, source, { batch, seed: 1, adversarial });
  const step = new TrainingStep(store, recipe, {
    rate: { lr: 0.02, schedule: 'constant', warmup: 0, steps: 6 },
    optimiser: { kind: 'sgd', momentum: 0.9, nesterov: true },
    averages: [],
    traceLength: 6,
  });
  const start = await store.parameters.get('bn1.running_mean').floats();
  for (let t = 0; t < 6; t++) step.run(t);
  const rows = await step.trace.rows.floats();
  assert.ok(rows[10]! < rows[0]!, `loss ${rows[0]} -> ${rows[10]}`);
  const moved = (await store.parameters.get('bn1.running_mean').floats()).map((v, i) => v - start[i]!);
  assert.ok(moved.some((v) => Math.abs(v) > 1e-4) && moved.every(Number.isFinite));
  step.dispose();
  recipe.dispose();
  assert.is(device.memory().tensors, before);
  store.dispose();
});

test('settings that exclude each other are refused', async () => {
  const { store, loss } = await setUp();
  const adversarial = { method: 'pgd' as const, eps: 0.1, steps: 1, stepSize: 0.1 };
  const refused = async (options: Partial<ClassifierOptions>, message: RegExp) => {
    const error = await loss(options).then(
      () => null,
      (e: Error) => e,
    );
    assert.match(String(error), message);
  };
  await refused({ adversarial, mixup: 0.2 }, /mixup and adversarial training exclude each other/);
  await refused({ adversarial: { ...adversarial, eps: 0 } }, /wants eps, attack_steps and step_size above 0/);
  await refused({ mixup: 3 }, /mixup must be in \[0, 2\], got 3/);
  store.dispose();
});

test.run();
