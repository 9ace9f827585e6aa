import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../../src/engine/errors.ts';
import { add, div, mul, residual, sub } from '../../src/kernels/broadcast.ts';
import { affine } from '../../src/kernels/elementwise.ts';
import { kernelRank, mergeAxes, stridesOf, widen } from '../../src/kernels/shape-index.ts';
import { checkOp, testDevice } from '../support.ts';

const ops = { add, sub, mul, div };

checkOp('broadcast', {
  run: ({ a, b }, { op, factor }) => {
    if (op === 'residual') return residual(a!, b!, factor);
    if (op === 'scale') return affine(a!, factor);
    return ops[op as keyof typeof ops](a!, b!);
  },
});

const test = suite('broadcast room');

test('both arguments may be one tensor', async () => {
  const device = await testDevice();
  const x = device.tensor([1, -2, 3]);
  assert.equal(await mul(x, x).floats(), Float32Array.of(1, 4, 9));
  assert.equal(await residual(x, x, 0.5).floats(), Float32Array.of(1, -2, 3));
});

test('axes merge', () => {
  const strides = (shape: number[]) => stridesOf(shape);
  const equal = mergeAxes([2, 3, 4], [strides([2, 3, 4])]);
  assert.equal(equal, { sizes: [24], strides: [[1]] });
  // [2,3,4,8] with [8]: two axes, the second operand repeated along the outer one.
  const channels = mergeAxes([2, 3, 4, 8], [strides([2, 3, 4, 8]), [0, 0, 0, 1]]);
  assert.equal(channels, {
    sizes: [8, 24],
    strides: [
      [1, 8],
      [1, 0],
    ],
  });
  assert.equal(widen(channels), {
    sizes: [2, 24],
    strides: [
      [1, 2],
      [1, 0],
    ],
  });
  // [2,3,4,8] with [2,1,1,8].
  const image = mergeAxes([2, 3, 4, 8], [strides([2, 3, 4, 8]), [8, 0, 0, 1]]);
  assert.equal(image.sizes, [8, 12, 2]);
  assert.is(kernelRank(image), 3);
  // A constant operand stays scalar, an odd outer distance forbids vec4.
  assert.equal(
    widen(
      mergeAxes(
        [2, 8],
        [
          [8, 1],
          [1, 0],
        ],
      ),
    )?.strides[1],
    [0, 1],
  );
  assert.is(widen(mergeAxes([2, 8], [[9, 1]])), null);
  assert.is(widen(mergeAxes([16], [[1]]), [2]), null);
});

test('mistakes are named', async () => {
  const device = await testDevice();
  const fails = (f: () => unknown, text: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && text.test(e.message));
  fails(
    () => add(device.zeros([2, 3]), device.zeros([2])),
    /add: \[2,3\] and \[2\] do not broadcast: 3 against 2/,
  );
  fails(() => mul(device.zeros([2]), device.zeros([2], 'u32')), /mul: f32 and u32/);
  fails(() => residual(device.zeros([2, 3]), device.zeros([3]), 1), /residual: \[2,3\] f32 and \[3\]/);
});

test.run();
