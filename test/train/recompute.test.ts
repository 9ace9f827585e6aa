/** Activation checkpointing of classifiers in training: the same loss, statistics and gradient, in less memory. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { conv2d } from '../../src/kernels/conv2d.ts';
import { silu } from '../../src/kernels/elementwise.ts';
import { halved } from '../../src/kernels/half.ts';
import { mean } from '../../src/kernels/reduce.ts';
import { concat } from '../../src/kernels/shape.ts';
import { type Architecture, ClassifierNet } from '../../src/nets/classifier.ts';
import { bindParameters } from '../../src/nets/parameters.ts';
import { blockRunner, type RunBlock } from '../../src/nets/recompute.ts';
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
    // Where rounding turns the sign at a ReLU, its whole gradient turns; DeepMind's network has none.
    const storages = architecture.family === 'dm_wide_resnet' ? (['f16'] as const) : [];
    for (const recompute of [false, true, ...storages]) {
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
    const [plain, saved, rounded] = results as [Float32Array[], Float32Array[], Float32Array[]?];
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
    if (rounded) {
      const of = (values: Float32Array[]) => values.slice(1, gradients).flatMap((g) => [...g]);
      assertClose(rounded[0]!, plain[0]!, 1e-4, 'loss with f16 between blocks');
      assertClose(of(rounded), of(plain), 5e-3, 'gradient with f16 between blocks');
    }
    net.dispose();
    for (const average of store.averages.flat()) average.dispose();
    assert.is(device.memory().tensors, before, 'nothing is left behind');
  });
}

test('f16 between blocks: both passes begin from the same bits', async () => {
  const device = await testDevice();
  const random = lcg(6);
  const tensor = (shape: number[]) =>
    device.tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b) }, random), shape);
  const inputs = [tensor([2, 8, 8, 4]), tensor([3, 3, 4, 4]), tensor([3, 3, 8, 4])];
  const results: Float32Array[][] = [];
  const rounding: RunBlock = (from, block) => block(...(from.map((x) => halved(x)()) as [Tensor]));
  for (const run of [rounding, blockRunner('f16')]) {
    const program = device.record('blocks', () => {
      const { output, pullback } = vjp((x, a, b) => {
        const block = (y: Tensor) => silu(conv2d(y, a!, { padding: 1 }));
        const first = run([x!], block);
        // As with a skip connection, the first is read twice.
        return run([run([first], block), first], (...parts) => conv2d(concat(parts, 3), b!, { padding: 1 }));
      }, inputs);
      return [output, ...pullback()];
    });
    results.push(await Promise.all(program.run().map((t) => t.floats())));
    program.dispose();
  }
  const [kept, again] = results as [Float32Array[], Float32Array[]];
  assert.equal(again[0], kept[0]);
  // Cotangents of what is read twice are added in another order.
  for (let i = 1; i < 4; i++) assertClose(again[i]!, kept[i]!, 1e-6, `gradient ${i}`);
  for (const x of inputs) x.dispose();
});

test('f16 between blocks: a deep network takes a fifth less than with f32', async () => {
  const device = await testDevice();
  const { parameters, forward } = wideResNet({ depth: 64, widen_factor: 1, image_size: 16 });
  const p = bindParameters(device, parameters, syntheticCheckpoint(parameters));
  const x = device.zeros([batch, 16, 16, 3]);
  const [f32, f16] = ([true, 'f16'] as const).map((recompute) => {
    const program = device.record('deep', () => vjp((y) => forward(p, y!, { recompute }), [x]).pullback());
    program.dispose();
    return program.cost.plannedBytes;
  }) as [number, number];
  assert.ok(f16 < 0.8 * f32, `${f16} bytes, with f32 ${f32}`);
  for (const part of [p, x]) part.dispose();
});

test('a network without blocks refuses it', () => {
  assert.throws(
    () => networkOf(configure('cifar10-wrn', ['net=cnn_a', 'recompute=true'])),
    /cnn_a has no blocks to recompute; set recompute=false/,
  );
});

test.run();
