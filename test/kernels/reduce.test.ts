import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../../src/engine/errors.ts';
import {
  argmax,
  broadcastTo,
  chooseMaxKernel,
  chooseSumKernel,
  max,
  mean,
  type ReduceVariant,
  sum,
} from '../../src/kernels/reduce.ts';
import { checkOp, lcg, testDevice } from '../support.ts';

const variants: ReduceVariant[] = ['registers', 'workgroup'];

for (const variant of variants) {
  checkOp('reduce', {
    run: ({ x }, { op, axes, axis, keepDims, shape }) => {
      if (op === 'broadcastTo') return broadcastTo(x!, shape);
      if (op === 'max') return max(x!, axis, { keepDims, variant });
      return (op === 'sum' ? sum : mean)(x!, axes, { keepDims, variant });
    },
    // Steps across a change of the maximum are no derivative.
    finiteDifferences: false,
  });
}

const test = suite('reduce room');

test('a million terms: within 2e-7 of the sum of absolute values', async () => {
  const device = await testDevice();
  const random = lcg(3);
  for (const [count, offset] of [
    [1 << 20, 1],
    [1_000_003, 0],
  ] as const) {
    const data = Float32Array.from({ length: count }, () => random() + offset);
    let exact = 0;
    let size = 0;
    for (const v of data) {
      exact += v;
      size += Math.abs(v);
    }
    const x = device.tensor(data);
    for (const variant of variants) {
      const y = sum(x, undefined, { variant });
      const error = Math.abs(((await y.floats())[0] as number) - exact) / size;
      assert.ok(error < 2e-7, `${variant}, ${count} terms: ${error.toExponential(1)}`);
      y.dispose();
    }
    x.dispose();
  }
});

test('argmax: the first of equals, u32, both kernels', async () => {
  const device = await testDevice();
  const random = lcg(5);
  const [rows, columns] = [9, 150];
  const data = Float32Array.from({ length: rows * columns }, () => Math.round(8 * random()));
  data.fill(-3e38, 0, columns); // a row of equals: index 0
  const want = Uint32Array.from({ length: rows }, (_, r) => {
    const row = data.subarray(r * columns, (r + 1) * columns);
    return row.indexOf(Math.max(...row));
  });
  const x = device.tensor(data, [3, 3, columns]);
  for (const variant of variants) {
    const y = argmax(x, { variant });
    assert.equal([...y.shape], [3, 3]);
    assert.equal(await y.read(), want, variant);
  }
  assert.equal(await argmax(device.tensor([4, 5, 5])).read(), Uint32Array.of(1));
});

test('mistakes are named', async () => {
  const device = await testDevice();
  const x = device.zeros([2, 3]);
  const fails = (f: () => unknown, text: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && text.test(e.message));
  fails(() => sum(x, [2]), /sum: axis 2 is outside a tensor of rank 2/);
  fails(() => mean(x, [1, -1]), /mean: an axis is named twice in \[1,-1\]/);
  fails(() => max(x, -3), /max: axis -3/);
  fails(() => broadcastTo(x, [3, 3]), /broadcastTo: \[2,3\] does not broadcast to \[3,3\]/);
  fails(() => argmax(device.zeros([2], 'u32')), /argmax: x \[2\] is u32/);
  fails(() => sum(device.empty([0])), /sum: \[0\] has no elements/);
});

test('choice', () => {
  const [gpu, cpu] = [{ cpu: false }, { cpu: true }];
  const million = { outer: 1, length: 1 << 20, inner: 1 };
  assert.equal(chooseSumKernel(million, gpu), {
    variant: 'workgroup',
    vector: 'lanes',
    chunks: 128,
    chunk: 2048,
    tx: 1,
  });
  assert.equal(chooseSumKernel(million, cpu), {
    variant: 'registers',
    vector: 'lanes',
    chunks: 512,
    chunk: 512,
    tx: 1,
  });
  const bias = chooseSumKernel({ outer: 1, length: 32768, inner: 256 }, gpu);
  assert.is(bias.vector, 'inner');
  assert.is(bias.tx, 64);
  assert.is(bias.variant, 'workgroup');
  assert.is(chooseSumKernel({ outer: 1e6, length: 10, inner: 1 }, gpu).variant, 'registers');
  assert.is(chooseSumKernel({ outer: 2, length: 7, inner: 3 }, gpu).vector, 'none');
  assert.is(chooseMaxKernel({ outer: 8, length: 1000, inner: 1 }, gpu), 'workgroup');
  assert.is(chooseMaxKernel({ outer: 8, length: 10, inner: 1 }, gpu), 'registers');
  assert.is(chooseMaxKernel({ outer: 8, length: 1000, inner: 1 }, cpu), 'registers');
});

test.run();
