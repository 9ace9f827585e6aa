import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../../src/engine/errors.ts';
import { chooseSoftmaxKernel, logSoftmax, type SoftmaxVariant, softmax } from '../../src/kernels/softmax.ts';
import { checkOp, testDevice } from '../support.ts';

for (const variant of ['registers', 'workgroup'] as SoftmaxVariant[]) {
  checkOp('softmax', {
    run: ({ x }, { log }) => (log ? logSoftmax : softmax)(x!, { variant }),
    // exp multiplies the rounding of its argument, here up to 250.
    tolerance: { forward: 4e-6 },
    // One column: the gradient is 0, and "large" is flat but for its kinks.
    finiteDifferences: false,
  });
}

const test = suite('softmax room');

test('very negative logits give zeros, not NaN', async () => {
  const device = await testDevice();
  const x = device.tensor([-3e38, 0, -3e38, 0, 0, 0, 0, -1e30], [2, 4]);
  for (const variant of ['registers', 'workgroup'] as SoftmaxVariant[]) {
    const y = await softmax(x, { variant }).floats();
    assert.equal(
      y.map((v) => Math.round(v * 1e5) / 1e5),
      Float32Array.of(0, 0.5, 0, 0.5, 0.33333, 0.33333, 0.33333, 0),
    );
  }
});

test('mistakes are named', async () => {
  const device = await testDevice();
  assert.throws(
    () => softmax(device.zeros([])),
    (e: Error) => e instanceof ShapeError && /softmax: x \[\]/.test(e.message),
  );
});

test('choice', () => {
  const [gpu, cpu] = [{ cpu: false }, { cpu: true }];
  assert.equal(chooseSoftmaxKernel({ rows: 64, columns: 10 }, gpu), {
    variant: 'workgroup',
    lanes: 1,
    threads: 32,
  });
  assert.equal(chooseSoftmaxKernel({ rows: 4096, columns: 256 }, gpu), {
    variant: 'workgroup',
    lanes: 4,
    threads: 64,
  });
  assert.equal(chooseSoftmaxKernel({ rows: 4096, columns: 8 }, gpu), {
    variant: 'registers',
    lanes: 4,
    threads: 0,
  });
  assert.equal(chooseSoftmaxKernel({ rows: 4096, columns: 256 }, cpu), {
    variant: 'registers',
    lanes: 4,
    threads: 0,
  });
  assert.is(chooseSoftmaxKernel({ rows: 1, columns: 99999 }, cpu).variant, 'registers');
  assert.is(chooseSoftmaxKernel({ rows: 1, columns: 99999 }, gpu).threads, 256);
});

test.run();
