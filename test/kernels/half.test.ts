/** What is kept in 16 bits: the host's rounding, a gradient that goes straight through, an overflow that is named. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import { floatToHalf, halfToFloat } from '../../src/formats/half.ts';
import { mul } from '../../src/kernels/broadcast.ts';
import { halved } from '../../src/kernels/half.ts';
import { lcg, testDevice } from '../support.ts';

const test = suite('half storage');

const random = lcg(4);
// Ties between two halves, the smallest normal one and those below it, the largest and what still rounds to it; of all sizes.
const edges = [
  ...[0, -0, 1, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 1 + 2 ** -11 + 2 ** -20, 2 ** -14, 2 ** -14 - 2 ** -26],
  ...[2 ** -24, 2 ** -25, 3 * 2 ** -25, -(2 ** -20), 65504, -65504, 65519.99, 2047.5, 2 ** -40],
];
const values = Float32Array.from([
  ...edges,
  ...Array.from({ length: 1000 }, () => random() * 2 ** (16 * random() - 2)),
]);

test('rounds to nearest, ties to even, an odd number of elements too; comes back the same each time', async () => {
  const device = await testDevice();
  assert.is(values.length % 2, 1);
  const x = device.tensor(values);
  const [again, once] = device.scope(() => {
    const back = halved(x);
    return [back(), back()] as const;
  });
  const got = await once.floats();
  // f16 numbers below 2^-14 may come back as 0.
  const want = halfToFloat(floatToHalf(values));
  const flushed = got.every((v, i) => v === want[i])
    ? want
    : want.map((v) => (Math.abs(v) < 2 ** -14 ? 0 : v));
  assert.equal([...got], [...flushed]);
  assert.equal(await again.floats(), got);
  for (const t of [x, again, once]) t.dispose();
});

test('the gradient goes straight through, at the rounded value', async () => {
  const device = await testDevice();
  const x = device.tensor(values.subarray(0, 9));
  const [dx, y] = device.scope(() => {
    const { output, pullback } = vjp((z) => mul(halved(z)(), halved(z)()), [x]);
    return [pullback()[0]!, output] as const;
  });
  const rounded = halfToFloat(floatToHalf(values.subarray(0, 9)));
  assert.equal([...(await dx.floats())].map(Math.abs), [...rounded.map((v) => Math.abs(2 * v))]);
  for (const t of [x, dx, y]) t.dispose();
});

for (const [name, value] of [
  ['beyond 65504', 65520],
  ['minus infinity', Number.NEGATIVE_INFINITY],
  ['no number', Number.NaN],
] as const) {
  test(`${name}: NaN, of which the kernel is named`, async () => {
    const device = await testDevice();
    const x = device.tensor([1, 2, 3, value, 5]);
    const program = device.record('overflow', () => ({ y: halved(x)() }));
    const found = await program.firstNotFinite();
    assert.is(found?.kernel, 'half-store');
    program.run();
    const y = await program.outputs.y.floats();
    assert.ok(Number.isNaN(y[3]) && y[0] === 1 && y[4] === 5, String(y));
    program.dispose();
    x.dispose();
  });
}

test.run();
