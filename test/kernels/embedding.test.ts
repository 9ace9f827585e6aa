import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../../src/engine/errors.ts';
import {
  fourierEmbedding,
  fourierEmbeddingHost,
  sinusoidalEmbedding,
  sinusoidalEmbeddingHost,
} from '../../src/kernels/embedding.ts';
import { checkOp, lcg, loadFixture, testDevice } from '../support.ts';

checkOp('embedding', {
  run: ({ t, w }, { op, ...options }) =>
    op === 'fourier' ? fourierEmbedding(t!, w!) : sinusoidalEmbedding(t!, options.dim, options),
  tolerance: { forward: 2e-7 },
});

const test = suite('embedding room');

const largestError = (a: Float32Array, b: ArrayLike<number>) =>
  a.reduce((worst, v, i) => Math.max(worst, Math.abs(v - (b[i] as number))), 0);

test('every element is within 5e-7 of float64, on the device and on the host', async () => {
  const device = await testDevice();
  const fixture = loadFixture('embedding');
  for (const [label, { op, ...rest }] of Object.entries(fixture.cases)) {
    const options = rest as { dim: number; order: 'cos-sin' | 'sin-cos'; maxPeriod: number };
    const t = fixture.get(`${label}.t`).data;
    const w = op === 'fourier' ? fixture.get(`${label}.w`).data : null;
    const host = w ? fourierEmbeddingHost(t, w) : sinusoidalEmbeddingHost(t, options.dim, options);
    const want = fixture.get(`${label}.y`).data;
    assert.ok(largestError(host, want) <= 6e-8, `${label}: host`); // the rounding of the fixture itself
    const y = w
      ? fourierEmbedding(device.tensor(t), device.tensor(w))
      : sinusoidalEmbedding(device.tensor(t), options.dim, options);
    const error = largestError(await y.floats(), want);
    assert.ok(error <= 5e-7, `${label}: device is off by ${error.toExponential(2)}`);
  }
});

test('a sweep of angles up to thousands of turns', async () => {
  const device = await testDevice();
  const random = lcg(11);
  const t = Float32Array.from({ length: 64 }, (_, i) => random() * 2 ** ((i % 16) - 4));
  const w = Float32Array.from({ length: 128 }, () => random() * 48);
  const y = await fourierEmbedding(device.tensor(t), device.tensor(w)).floats();
  const error = largestError(y, fourierEmbeddingHost(t, w));
  assert.ok(error <= 5e-7, error.toExponential(2));
});

test('mistakes are named', async () => {
  const device = await testDevice();
  const fails = (f: () => unknown, text: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && text.test(e.message));
  fails(() => fourierEmbedding(device.zeros([2, 1]), device.zeros([3])), /fourierEmbedding: t \[2,1\]/);
  fails(() => fourierEmbedding(device.zeros([2]), device.zeros([3], 'u32')), /fourierEmbedding: w \[3\] u32/);
  fails(() => sinusoidalEmbedding(device.zeros([2]), 1), /sinusoidalEmbedding: dim 1/);
});

test.run();
