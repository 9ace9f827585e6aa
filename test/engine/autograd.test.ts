/** What a pullback refuses, and whose its results are. The gradients themselves are checked operation by operation. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { noGrad, recompute, vjp } from '../../src/engine/autograd.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { Adam } from '../../src/kernels/adam.ts';
import { add, mul } from '../../src/kernels/broadcast.ts';
import { affine, square } from '../../src/kernels/elementwise.ts';
import { assertClose, testDevice } from '../support.ts';

const test = suite('autograd');

test('a gradient whose output is gone is an error, not zero', async () => {
  const device = await testDevice();
  device.scope(() => {
    const x = device.full([2], 3);
    const { pullback } = device.scope(() => ({ pullback: vjp(square, [x]).pullback }));
    assert.throws(() => pullback(), /the output \[2\] was disposed; end its scope after the pullback/);
  });
});

test('a gradient of a gradient is an error, not zero, and a constant inside noGrad', async () => {
  const device = await testDevice();
  const x = device.tensor([1, 2, 3, 4]);
  const cube = (v: Tensor) => mul(v, square(v));
  const slope = (u: Tensor) => vjp(cube, [u]).pullback()[0] as Tensor;
  const gradient = device.scope(() => {
    const second = vjp(slope, [x]);
    assert.throws(() => second.pullback(), /no gradient of a gradient can be taken; .* inside noGrad/);
    const again = vjp((u) => recompute(device, () => mul(u, slope(u))), [x]);
    assert.throws(() => again.pullback(), /no gradient of a gradient can be taken/);
    // d(u · 3x²)/du, and 3x² a constant.
    return vjp(
      (u) =>
        mul(
          u,
          noGrad(() => slope(u)),
        ),
      [x],
    ).pullback()[0] as Tensor;
  });
  assertClose(await gradient.floats(), [3, 12, 27, 48], 1e-6, 'first order');
  for (const t of [x, gradient]) t.dispose();
});

test('each gradient is disposed of on its own, also where they and the cotangent are one tensor', async () => {
  const device = await testDevice();
  const [a, b, dy] = [device.full([2], 1), device.full([2], 2), device.full([2], 5)];
  const before = device.memory().tensors;
  const [da, db] = device.scope(() => vjp(add, [a, b]).pullback(dy)) as [Tensor, Tensor];
  da.dispose();
  assert.equal([...(await db.floats())], [5, 5]);
  db.dispose();
  assert.equal([...(await dy.floats())], [5, 5]);
  assert.is(device.memory().tensors, before);
  for (const t of [a, b, dy]) t.dispose();
});

test('a gradient of what has been overwritten is an error, whoever wrote', async () => {
  const device = await testDevice();
  const w = device.tensor([3], [1]);
  const { pullback } = vjp(square, [w]);
  w.write([100]);
  assert.throws(() => pullback(), /\[1\] of square was written after it was computed with/);
  const again = vjp((u) => square(affine(u, 2)), [w]);
  const adam = new Adam(device, w, { lr: 1, betas: [0.9, 0.99] });
  adam.step(again.pullback() as [Tensor]);
  assert.throws(() => again.pullback(), /of affine was written/);
});

test.run();
