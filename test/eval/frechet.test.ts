/** The Fréchet distance against NumPy, and the features that it is taken of. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { InputError } from '../../src/engine/errors.ts';
import { frechetDistance, momentsOf, symmetricEigen } from '../../src/eval/frechet.ts';
import { featureMoments, imagesOf } from '../../src/eval/quality.ts';
import { linear } from '../../src/kernels/matmul.ts';
import { ClassifierNet } from '../../src/nets/classifier.ts';
import { cifarResNet } from '../../src/nets/resnet.ts';
import { syntheticCheckpoint } from '../nets/parity.ts';
import { assertClose, lcg, loadFixture, testDevice } from '../support.ts';

test('distances of NumPy, also where covariances are singular', () => {
  const fixture = loadFixture('eval/frechet');
  const wanted = JSON.parse(fixture.metadata.distances as string);
  const [first, second] = [fixture.get('first').data, fixture.get('second').data];
  const d = 16;
  const [a, b] = [momentsOf(first, d), momentsOf(second, d)];
  // Doubles on both sides; roots of eigenvalues near zero keep half of the digits.
  assert.ok(Math.abs(frechetDistance(a, b) / wanted.full - 1) < 1e-9, `${frechetDistance(a, b)}`);
  assert.ok(Math.abs(frechetDistance(b, a) / wanted.full - 1) < 1e-9);
  const few = frechetDistance(momentsOf(first.subarray(0, 9 * d), d), b);
  assert.ok(Math.abs(few / wanted.few - 1) < 1e-5, `${few}, wanted ${wanted.few}`);
  const trace = a.covariance.reduce((sum, v, i) => sum + (i % (d + 1) === 0 ? v : 0), 0);
  assert.ok(frechetDistance(a, a) < 1e-7 * trace);
  assert.throws(
    () => momentsOf(first.subarray(0, d), d),
    (e: Error) => e instanceof InputError,
  );
});

test('eigenvectors are orthonormal and give the matrix back', () => {
  const d = 12;
  const next = lcg(1);
  const m = Float64Array.from({ length: d * d }, () => next() - 0.5);
  const s = m.map((v, i) => v + (m[(i % d) * d + Math.floor(i / d)] as number));
  const { values, vectors } = symmetricEigen(s, d);
  for (let i = 0; i < d; i++)
    for (let j = 0; j < d; j++) {
      let [again, dot] = [0, 0];
      for (let k = 0; k < d; k++) {
        const [x, y] = [vectors[i * d + k] as number, vectors[j * d + k] as number];
        again += x * y * (values[k] as number);
        dot += x * y;
      }
      assert.ok(Math.abs(again - (s[i * d + j] as number)) < 1e-13);
      assert.ok(Math.abs(dot - (i === j ? 1 : 0)) < 1e-13);
    }
});

test('features are what the linear layer is given', async () => {
  const device = await testDevice();
  const architecture = cifarResNet({ depth: 8 });
  const net = ClassifierNet.load(device, architecture, syntheticCheckpoint(architecture.parameters));
  const next = lcg(2);
  const x = device.tensor(Float32Array.from({ length: 2 * 3072 }, next), [2, 32, 32, 3]);
  const features = net.features(x);
  assert.equal(features.shape, [2, 64]);
  const { parameters: p } = net;
  const logits = linear(features, p.get('linear.weight'), p.get('linear.bias'));
  assertClose(await logits.floats(), await net.logits(x).floats(), 1e-6, 'logits');
  // By batches of the images as a data set holds them.
  const host = await x.floats();
  const data = { images: host, shape: [2, 32, 32, 3] as const, labels: [0, 1], ids: [0, 1] };
  const { mean, count } = await featureMoments(net, imagesOf(device, data), 1);
  assert.is(count, 2);
  assertClose(mean, momentsOf(await features.floats(), 64).mean, 1e-6, 'mean');
  const other = new ClassifierNet(device, { ...architecture, features: undefined }, p);
  assert.throws(() => other.features(x), /its features are not told/);
  net.dispose();
});

test.run();
