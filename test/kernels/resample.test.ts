import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../../src/engine/errors.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import {
  firConvPad,
  firDownsample,
  firUpsample,
  nearestUpsample,
  upfirdn,
} from '../../src/kernels/resample.ts';
import { checkOp, testDevice } from '../support.ts';

checkOp('resample', {
  run: ({ x }, { op, options, factor }) => {
    if (op === 'down') return firDownsample(x!);
    if (op === 'up') return firUpsample(x!);
    if (op === 'conv pad') return firConvPad(x!);
    if (op === 'nearest') return nearestUpsample(x!, factor);
    return upfirdn(x!, options);
  },
});

const test = suite('resample room');

test('a constant image stays constant inside', async () => {
  const device = await testDevice();
  const x = device.full([1, 6, 6, 1], 1);
  const inner = async (y: Tensor, size: number) => {
    const all = await y.floats();
    return all.filter((_, i) => [i % size, Math.floor(i / size)].every((c) => c >= 2 && c < size - 2));
  };
  for (const v of await inner(firUpsample(x), 12)) assert.is(v, 1);
  for (const v of await inner(firConvPad(x), 7)) assert.is(v, 1);
});

test('mistakes are named', async () => {
  const device = await testDevice();
  const fails = (f: () => unknown, text: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && text.test(e.message));
  fails(
    () => firDownsample(device.zeros([1, 1, 4, 2])),
    /upfirdn: \[1,1,4,2\] with up 1, down 2, pad \[1,1\] gives 0 x 2/,
  );
  fails(() => upfirdn(device.zeros([4, 4]), { pad: [0, 0] }), /upfirdn: \[4,4\] is not/);
  fails(() => upfirdn(device.zeros([1, 4, 4, 1]), { up: 1.5, pad: [0, 0] }), /upfirdn: factor 1.5/);
  fails(() => nearestUpsample(device.zeros([1, 4, 4, 1]), 0), /nearestUpsample: factor 0/);
});

test.run();
