import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import { keyOf, philox4x32, uniformOf } from '../../src/engine/philox.ts';
import { advance } from '../../src/engine/random.ts';
import { dropout } from '../../src/kernels/dropout.ts';
import { mean } from '../../src/kernels/reduce.ts';
import { ClassifierNet } from '../../src/nets/classifier.ts';
import { ncsnpp } from '../../src/nets/ncsnpp.ts';
import { fileLayout } from '../../src/nets/parameters.ts';
import { wideResNet } from '../../src/nets/wide-resnet.ts';
import { ClassifierRecipe } from '../../src/train/classifier.ts';
import { configure } from '../../src/train/config.ts';
import { ConsistencyRecipe } from '../../src/train/consistency.ts';
import { ParameterStore } from '../../src/train/store.ts';
import { syntheticCheckpoint } from '../nets/parity.ts';
import { assertClose, lcg, loadFixture, testDevice } from '../support.ts';

const test = suite('dropout');

test('the mask is the counter’s, the gradient has the same, each replay of a step another', async () => {
  const device = await testDevice();
  const [rows, length, rate, seed, purpose] = [3, 10, 0.3, 5e9 + 7, 42];
  const values = Array.from({ length: rows * length }, (_, i) => i + 1);
  const x = device.tensor(values, [rows, length]);
  const step = device.tensor([4], [1], 'u32');
  const program = device.record('dropout', () => {
    const { output, pullback } = vjp((u) => dropout(u, { rate, seed, purpose, step }), [x]);
    const [dx] = pullback();
    const again = dropout(x, { rate, seed, purpose, step });
    advance(step);
    return [output, dx!, again];
  });
  for (const t of [4, 5]) {
    const [y, dx, again] = await Promise.all(program.run().map((o) => o.floats()));
    const keep = values.map((_, i) => {
      const e = i % length;
      const words = philox4x32([Math.floor(e / 4), Math.floor(i / length), purpose, t], keyOf(seed));
      return uniformOf(words[e % 4]!) >= rate;
    });
    const factor = Math.fround(1 / (1 - rate));
    const want = values.map((v, i) => (keep[i] ? Math.fround(v * factor) : 0));
    assert.equal([...y!], want);
    assert.equal([...again!], want);
    assert.equal(
      [...dx!],
      keep.map((k) => (k ? factor : 0)),
    );
  }
  program.dispose();
  x.dispose();
  step.dispose();
});

test('a share of `rate` is dropped', async () => {
  const device = await testDevice();
  const x = device.full([4, 4096], 1);
  const step = device.zeros([1], 'u32');
  const y = device.scope(() => dropout(x, { rate: 0.13, seed: 1, purpose: 6, step }));
  const kept = (await y.floats()).filter((v) => v > 0).length / y.size;
  // Four standard deviations of 16,384 draws are 0.0105.
  assert.ok(Math.abs(kept - 0.87) < 0.0105, `${kept}`);
  assert.throws(() => dropout(x, { rate: 1, seed: 1, purpose: 6, step }), /rate must be in \[0, 1\), got 1/);
  for (const t of [x, y, step]) t.dispose();
});

test('a WideResNet drops before its second convolutions, as PyTorch with the same masks: fixtures/train/dropout.py', async () => {
  const device = await testDevice();
  const fixture = loadFixture('train/dropout');
  const { net, seed, step, rate, loss } = fixture.cases.wrn as unknown as {
    net: object;
    seed: number;
    step: number;
    rate: number;
    loss: number;
  };
  const architecture = wideResNet(net);
  const store = new ParameterStore(
    device,
    architecture.parameters,
    syntheticCheckpoint(architecture.parameters),
  );
  const classifier = new ClassifierNet(device, architecture, store.parameters);
  const images = fixture.get('x').data;
  const labels = Uint32Array.from(fixture.get('labels').data);
  const source = { at: () => ({ images, labels }) };
  const recipe = new ClassifierRecipe(classifier, store, source, { batch: 4, seed, dropout: rate });
  recipe.load(step);
  const results = device.scope(() => {
    const { output, pullback } = vjp(
      (...watched) =>
        mean(
          recipe.loss(
            store.with(watched, () => {}),
            { first: 0, count: 4 },
          ),
        ),
      store.tensors,
    );
    return [output, ...pullback()];
  });
  const [value] = await results[0]!.floats();
  assert.ok(Math.abs(value! - loss) < 1e-5 * loss, `${value} is ${loss}`);
  for (const name of fixture.names.filter((n) => n.startsWith('d.')).map((n) => n.slice(2))) {
    const gradient = await results[1 + store.names.indexOf(name)]!.floats();
    const got = fileLayout(store.declared.get(name)!, gradient);
    assertClose(got, fixture.get(`d.${name}`).data, 1e-4, name);
  }
  for (const part of [...results, recipe, classifier, store]) part.dispose();
});

test('both passes of a consistency pair drop the same: at equal levels their results are equal', async () => {
  const device = await testDevice();
  const settings = ['image_size=8', 'nf=8', 'num_res_blocks=1', 'patch_size=1'].map((s) => `net_config.${s}`);
  const { net_config } = configure('fashion-mnist-ict', settings);
  const unet = ncsnpp(net_config);
  const store = new ParameterStore(device, unet.parameters, syntheticCheckpoint(unet.parameters));
  const batch = 2;
  const random = lcg(11);
  const images = Float32Array.from({ length: batch * 64 }, () => 0.5 + 0.5 * random());
  const source = { at: () => ({ images, labels: new Uint32Array(batch) }) };
  const noise = Float32Array.from({ length: batch * 64 }, () => random());
  const loss = async (dropout: number, lower: number, step = 0) => {
    const given = {
      noise: () => noise,
      pairs: () => ({ upper: [1, 1], lower: [lower, lower], weight: [1, 1] }),
    };
    const recipe = new ConsistencyRecipe(
      device,
      unet,
      store,
      source,
      {
        ...{ method: 'ict', batch, seed: 3, steps: 10, distance: 'l2', s0: 2, s1: 4, mu0: 0, dropout },
        ...{
          sigmas: { min: 0.002, max: 80, data: 0.5 },
          logMean: 0,
          logStd: 1,
          q: 2,
          stageSteps: 1,
          solver: 'heun',
        },
      },
      null,
      undefined,
      given,
    );
    recipe.load(step);
    const value = device.scope(() => mean(recipe.loss(store.parameters, { first: 0, count: batch })));
    const [result] = await value.floats();
    value.dispose();
    recipe.dispose();
    return result!;
  };
  assert.is(await loss(0.5, 1), 0);
  const [none, half, later] = [await loss(0, 0.5), await loss(0.5, 0.5), await loss(0.5, 0.5, 1)];
  assert.ok(none > 0 && half > 0, `${none} ${half}`);
  const apart = (a: number, b: number) => Math.abs(a - b) > 1e-3 * none;
  assert.ok(
    apart(half, none) && apart(half, later),
    `dropout acts, and anew at each step: ${none} ${half} ${later}`,
  );
  store.dispose();
});

test.run();
