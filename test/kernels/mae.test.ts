import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../../src/engine/errors.ts';
import { mae } from '../../src/kernels/mae.ts';
import { checkOp, testDevice } from '../support.ts';

checkOp('mae', {
  run: ({ x, target }) => mae(x as never, target as never),
  // Kinks where x = y.
  finiteDifferences: false,
});

const test = suite('mae, its own');

test('errors name the shapes', async () => {
  const device = await testDevice();
  device.scope(() => {
    const x = device.zeros([6, 4, 4, 1]);
    assert.throws(
      () => mae(x, device.zeros([4, 4, 4, 1])),
      (e: Error) =>
        e instanceof ShapeError &&
        e.message === 'mae: images [6,4,4,1] do not fit targets [4,4,4,1]: wanted [B·K, ...] and [B, ...]',
    );
    assert.throws(() => mae(x, device.zeros([6, 4, 4, 3])), /do not fit targets/);
    assert.throws(() => mae(x, device.zeros([6, 4, 4, 1], 'u32')), /f32 and u32/);
    assert.throws(() => mae(device.zeros([4]), device.zeros([4])), /wanted \[N, ...\]/);
  });
});

test.run();
