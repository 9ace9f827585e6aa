import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../../src/engine/errors.ts';
import { pixelShuffle, pixelUnshuffle } from '../../src/kernels/pixel-shuffle.ts';
import { checkOp, testDevice } from '../support.ts';

checkOp('pixel-shuffle', {
  run: ({ x }, { op, p }) => (op === 'shuffle' ? pixelShuffle : pixelUnshuffle)(x!, p),
  tolerance: { forward: 0, gradient: 0 },
});

const test = suite('pixel-shuffle room');

test('mistakes are named', async () => {
  const device = await testDevice();
  const fails = (f: () => unknown, text: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && text.test(e.message));
  fails(() => pixelUnshuffle(device.zeros([1, 3, 4, 2]), 2), /pixelUnshuffle: 2 does not divide 3 x 4/);
  fails(() => pixelShuffle(device.zeros([1, 3, 4, 6]), 2), /pixelShuffle: 2² does not divide 6 channels/);
  fails(() => pixelShuffle(device.zeros([4, 4]), 2), /pixelShuffle: \[4,4\] is not \[N,H,W,C\]/);
});

test.run();
