import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../../src/engine/errors.ts';
import { batchNorm, batchNormLayout, batchNormTraining } from '../../src/kernels/batch-norm.ts';
import { assertClose, checkOp, lcg, testDevice } from '../support.ts';

checkOp('batch-norm', {
  run: ({ x, scale, bias, mean, variance }, { training, relu, eps }) =>
    training
      ? batchNormTraining(x!, scale!, bias!, { eps, relu }).y
      : batchNorm(x!, { scale: scale!, bias: bias!, mean: mean!, variance: variance! }, { eps, relu }),
  // At an offset of 100 a float32 x itself is known to 4e-6 of its deviation; the gradient through the statistics
  // of two rows cancels to 1e-4 of its terms.
  tolerance: { forward: 6e-6, gradient: 2e-5 },
  // ReLU has a kink.
  finiteDifferences: false,
});

const test = suite('batch-norm room');

test('training returns the statistics it used', async () => {
  const device = await testDevice();
  const random = lcg(5);
  const [rows, channels] = [1000, 6];
  const values = Float32Array.from(
    { length: rows * channels },
    (_, i) => random() * (1 + (i % channels)) + 50,
  );
  const one = device.full([channels], 1);
  const { mean, variance } = batchNormTraining(device.tensor(values, [rows, channels]), one, one, {
    eps: 1e-5,
  });
  const means = Array.from({ length: channels }, (_, c) => {
    let sum = 0;
    for (let r = 0; r < rows; r++) sum += values[r * channels + c]! / rows;
    return sum;
  });
  const variances = means.map((m, c) => {
    let sum = 0;
    for (let r = 0; r < rows; r++) sum += (values[r * channels + c]! - m) ** 2 / rows;
    return sum;
  });
  assertClose(await mean.floats(), means, 1e-6, 'mean');
  assertClose(await variance.floats(), variances, 2e-6, 'variance');
});

test('mistakes are named', async () => {
  const device = await testDevice();
  const x = device.zeros([2, 3, 3, 8]);
  const [p, short] = [device.zeros([8]), device.zeros([4])];
  const fails = (f: () => unknown, pattern: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && pattern.test(e.message));
  const rest = { scale: p, bias: p, mean: p };
  fails(
    () => batchNorm(x, { ...rest, variance: short }, { eps: 1e-5 }),
    /batchNorm: variance \[4\] is not \[8\]/,
  );
  fails(() => batchNorm(x, { ...rest, variance: p }, { eps: -1 }), /eps -1 is not positive/);
  fails(() => batchNormTraining(x, short, p, { eps: 1e-5 }), /batchNormTraining: scale \[4\] is not \[8\]/);
  fails(() => batchNormTraining(device.zeros([1, 8]), p, p, { eps: 1e-5 }), /has 1 row/);
});

test('layout', () => {
  assert.equal(batchNormLayout(16 * 28 * 28, 16), {
    lanes: 4,
    columns: 4,
    stride: 1568,
    count: 6272,
    chunk: 49,
    chunks: 256,
    partials: 1024,
  });
  assert.equal(batchNormLayout(3, 7), {
    lanes: 1,
    columns: 7,
    stride: 1,
    count: 7,
    chunk: 32,
    chunks: 1,
    partials: 7,
  });
});

test.run();
