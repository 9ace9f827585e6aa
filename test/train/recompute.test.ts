/** Activation checkpointing of classifiers in training: the same loss, statistics and gradient, in less memory. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { mean } from '../../src/kernels/reduce.ts';
import { type Architecture, ClassifierNet } from '../../src/nets/classifier.ts';
import { cifarResNet, resNet } from '../../src/nets/resnet.ts';
import { dmWideResNet, wideResNet } from '../../src/nets/wide-resnet.ts';
import { type ClassifierOptions, ClassifierRecipe } from '../../src/train/classifier.ts';
import { configure } from '../../src/train/config.ts';
import { networkOf } from '../../src/train/session.ts';
import { ParameterStore } from '../../src/train/store.ts';
import { syntheticCheckpoint } from '../nets/parity.ts';
import { assertClose, lcg, testDevice } from '../support.ts';

const test = suite('recompute');
const batch = 4;

const trades = { method: 'trades' as const, eps: 0.03, steps: 2, stepSize: 0.02 };
const cases: [name: string, Architecture, Partial<ClassifierOptions>][] = [
  ['WideResNet, dropout', wideResNet({ depth: 16, widen_factor: 1, image_size: 16 }), { dropout: 0.2 }],
  ['WideResNet, TRADES', wideResNet({ depth: 16, widen_factor: 1, image_size: 16 }), { adversarial: trades }],
  ['DeepMind’s WideResNet', dmWideResNet({ depth: 16, widen_factor: 1, image_size: 16 }), { dropout: 0.2 }],
  ['ResNet of CIFAR-10', cifarResNet({ depth: 14 }), {}],
  ['ResNet with bottlenecks', resNet({ layers: [2, 2, 1, 1], image_size: 32 }), {}],
];

for (const [name, architecture, options] of cases) {
  test(name, async () => {
    const device = await testDevice();
    const before = device.memory().tensors;
    const { parameters } = architecture;
    const store = new ParameterStore(device, parameters, syntheticCheckpoint(parameters));
    const net = new ClassifierNet(device, architecture, store.parameters);
    const random = lcg(5);
    const size = architecture.imageShape.reduce((a, b) => a * b);
    const images = Float32Array.from({ length: batch * size }, () => 0.5 + 0.4 * random());
    const source = { at: () => ({ images, labels: Uint32Array.of(3, 1, 4, 9) }) };
    const planned: number[] = [];
    const results: Float32Array[][] = [];
    const told: string[][] = [];
    for (const recompute of [false, true]) {
      const recipe = new ClassifierRecipe(net, store, source, { batch, seed: 1, recompute, ...options });
      const names: string[] = [];
      const statistics: Tensor[] = [];
      const program = device.record(`${name} ${recompute}`, () => {
        const onStatistics = (layer: string, m: Tensor, v: Tensor) => {
          names.push(layer);
          statistics.push(m, v);
        };
        const { output, pullback } = vjp(
          (...watched) => mean(recipe.loss(store.with(watched, onStatistics), { first: 0, count: batch })),
          store.tensors,
        );
        return [output, ...pullback(), ...statistics];
      });
      planned.push(program.cost.plannedBytes);
      told.push(names);
      recipe.load(0);
      results.push(await Promise.all(program.run().map((t) => t.floats())));
      program.dispose();
      recipe.dispose();
    }
    const [plain, saved] = results as [Float32Array[], Float32Array[]];
    assert.equal(told[1], told[0], 'every layer’s statistics, once for each pass through the network');
    assert.equal(saved[0], plain[0], 'loss');
    const gradients = 1 + store.names.length;
    // Cotangents of a tensor that several blocks read are added in another order.
    for (let i = 1; i < gradients; i++) assertClose(saved[i]!, plain[i]!, 1e-5, `d${store.names[i - 1]}`);
    assert.equal(saved.slice(gradients), plain.slice(gradients), 'statistics');
    // What is asked for, the gradient, takes its memory either way.
    const asked = store.tensors.reduce((sum, t) => sum + t.bytes, 0);
    const [kept, few] = planned.map((bytes) => bytes - asked) as [number, number];
    assert.ok(few < 0.85 * kept, `${few} bytes with checkpointing, ${kept} without`);
    net.dispose();
    for (const average of store.averages.flat()) average.dispose();
    assert.is(device.memory().tensors, before, 'nothing is left behind');
  });
}

test('a network without blocks refuses it', () => {
  assert.throws(
    () => networkOf(configure('cifar10-wrn', ['net=cnn_a', 'recompute=true'])),
    /cnn_a has no blocks to recompute; set recompute=false/,
  );
});

test.run();
