import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../../src/engine/errors.ts';
import { averagePool, globalAveragePool, maxPool } from '../../src/kernels/pool.ts';
import { checkOp, testDevice } from '../support.ts';

checkOp('pool', {
  run: ({ x }, { op, size, stride, padding }) => {
    if (op === 'average') return averagePool(x!, size, stride);
    if (op === 'max') return maxPool(x!, size, stride, padding);
    return globalAveragePool(x!);
  },
  // Steps across a change of the maximum are no derivative.
  finiteDifferences: false,
});

const test = suite('pool room');

test('mistakes are named', async () => {
  const device = await testDevice();
  const x = device.zeros([1, 3, 4, 2]);
  const fails = (f: () => unknown, text: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && text.test(e.message));
  fails(() => averagePool(x, 4), /averagePool: window 4 is larger than the image, 3 x 4/);
  fails(() => averagePool(x, 2, 0), /averagePool: 0 is not a whole number/);
  fails(() => maxPool(x, 2, 2, 2), /maxPool: padding 2 is not from 0 to half the window 2/);
  fails(() => maxPool(x, 5), /maxPool: window 5 is larger than the image, 3 x 4 padded by 0/);
  fails(() => globalAveragePool(device.zeros([2, 3])), /globalAveragePool: \[2,3\] is not \[N,H,W,C\]/);
});

test.run();
