import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../../src/engine/errors.ts';
import { concat, crop, pad, reshape, slice, transpose } from '../../src/kernels/shape.ts';
import { checkOp, testDevice } from '../support.ts';

checkOp('shape', {
  run: ({ x, a, b, c }, { op, shape, permutation, axis, start, length, starts, pads, value }) => {
    if (op === 'reshape') return reshape(x!, shape);
    if (op === 'transpose') return transpose(x!, permutation);
    if (op === 'slice') return slice(x!, axis, start, length);
    if (op === 'crop') return crop(x!, starts, shape);
    if (op === 'pad') return pad(x!, pads, value);
    if (op === 'concat twice') return concat([a!, a!], axis);
    return concat(c ? [a!, b!, c] : [a!, b!], axis);
  },
  // Numbers are moved, not computed; only gradients that meet (concat twice) are added.
  tolerance: { forward: 0, gradient: 1e-7 },
});

const test = suite('shape room');

test('a reshape and a transpose that moves nothing share the memory', async () => {
  const device = await testDevice();
  const x = device.zeros([3, 1, 4]);
  assert.is(reshape(x, [12]).storage, x.storage);
  assert.is(transpose(x, [1, 0, 2]).storage, x.storage);
});

test('integers move too', async () => {
  const device = await testDevice();
  const x = device.tensor([1, 2, 3, 4, 5, 0xffffffff], [2, 3], 'u32');
  assert.equal(await transpose(x, [1, 0]).read(), Uint32Array.of(1, 4, 2, 5, 3, 0xffffffff));
  assert.equal(await slice(x, 1, 1, 1).read(), Uint32Array.of(2, 5));
  assert.equal(
    await concat([x, x], 0).read(),
    Uint32Array.of(1, 2, 3, 4, 5, 0xffffffff, 1, 2, 3, 4, 5, 0xffffffff),
  );
  const y = device.tensor([1, -2], [2], 'i32');
  assert.equal(await pad(y, [[1, 1]], -7).read(), Int32Array.of(-7, 1, -2, -7));
});

test('mistakes are named', async () => {
  const device = await testDevice();
  const x = device.zeros([2, 3]);
  const fails = (f: () => unknown, text: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && text.test(e.message));
  fails(() => reshape(x, [4]), /reshape: \[2,3\] has 6 elements, \[4\] has 4/);
  fails(() => reshape(x, [4, -1]), /reshape: \[2,3\] has 6 elements, \[4,-1\] does not divide/);
  fails(() => reshape(x, [-1, -1]), /reshape/);
  fails(() => transpose(x, [0, 0]), /transpose: \[0,0\] is not a permutation/);
  fails(() => slice(x, 1, 2, 2), /slice: 2\.\.4 on axis 1 of \[2,3\] is outside 0\.\.3/);
  fails(() => slice(x, 2, 0, 1), /slice: axis 2/);
  fails(() => crop(x, [0], [1]), /crop: \[0\] and \[1\] do not fit rank 2/);
  fails(() => pad(x, [[0, 0]]), /pad: 1 pairs for \[2,3\]/);
  fails(
    () =>
      pad(x, [
        [0, 0],
        [-1, 0],
      ]),
    /pad: \[-1,0\]/,
  );
  fails(
    () => concat([x, device.zeros([3, 3])], 1),
    /concat: \[3,3\] f32 does not fit \[2,3\] f32 along axis 1/,
  );
  fails(() => concat([], 0), /concat: no tensors/);
});

test.run();
