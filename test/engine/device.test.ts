/** The device as a whole: order, losing it, errors in words, times, numbers that are not. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import { Device } from '../../src/engine/device.ts';
import {
  AdapterError,
  CmapError,
  check,
  DeviceLostError,
  formatBytes,
  InputError,
  KernelError,
  OutOfMemoryError,
  ShapeError,
} from '../../src/engine/errors.ts';
import { kernel, linearGrid } from '../../src/engine/kernel.ts';
import { durationsOf } from '../../src/engine/profile.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { attention } from '../../src/kernels/attention.ts';
import { batchNorm } from '../../src/kernels/batch-norm.ts';
import { conv2d } from '../../src/kernels/conv2d.ts';
import { crossEntropy } from '../../src/kernels/cross-entropy.ts';
import { affine, clamp, exp, relu, sigmoid, silu, square, tanh } from '../../src/kernels/elementwise.ts';
import { groupNorm } from '../../src/kernels/group-norm.ts';
import { linear, matmul } from '../../src/kernels/matmul.ts';
import { firDownsample } from '../../src/kernels/resample.ts';
import { reshape } from '../../src/kernels/shape.ts';
import { softmax } from '../../src/kernels/softmax.ts';
import { assertClose, testDevice } from '../support.ts';

const test = suite('device');

async function failureOf(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error('it did not fail');
}

test('operations run in the order they are called, across host writes and 1,000 dispatches', async () => {
  const device = await testDevice();
  const x = device.tensor([1], [1]);
  const before = affine(x, 10); // must see 1
  x.write([2]);
  const after = affine(x, 10); // must see 2
  let sum = device.full([1], 0);
  for (let i = 0; i < 1000; i++) {
    const next = affine(sum, 1, 1);
    sum.dispose();
    sum = next;
  }
  assert.equal(
    [...(await before.floats()), ...(await after.floats()), ...(await sum.floats())],
    [10, 20, 1000],
  );
  for (const t of [x, before, after, sum]) t.dispose();
});

test('two reads at once do not mix', async () => {
  const device = await testDevice();
  const a = device.full([300], 1);
  const b = device.full([300], 2);
  const [x, y] = await Promise.all([a.floats(), b.floats()]);
  assert.ok(x!.every((v) => v === 1) && y!.every((v) => v === 2));
  a.dispose();
  b.dispose();
});

test('a closed device rejects reads, syncs and programs with DeviceLostError, however often', async () => {
  const device = await Device.open();
  const x = device.full([4], 1);
  const program = device.record('p', () => affine(x, 2));
  program.run();
  const pending = x.floats();
  device.close();
  const errors = [
    await failureOf(pending).catch((e) => e),
    await failureOf(x.floats()),
    await failureOf(device.sync()),
  ];
  program.run();
  errors.push(await failureOf(program.outputs.floats()));
  // The read that was under way may have ended before the device did.
  for (const error of errors.slice(1)) {
    assert.instance(error, DeviceLostError);
    assert.match(error.message, /: device was closed$/);
  }
  program.dispose();
  x.dispose();
});

test('two devices live side by side, and their tensors do not mix', async () => {
  const device = await testDevice();
  const other = await Device.open();
  const x = device.full([4], 1);
  const y = other.full([4], 5);
  const k = kernel(
    'mixed test',
    `@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3<u32>) { y[id.x] = x[id.x]; }`,
  );
  assert.throws(() => device.run(k, { x, y }, {}, [1, 1, 1]), /mixed test: y lives on another device/);
  assert.equal([...(await y.floats())], [5, 5, 5, 5]);
  other.close();
  assert.equal([...(await x.floats())], [1, 1, 1, 1]);
  x.dispose();
});

test('time that two passes share is counted once', () => {
  // A second pass that its front end reached at 20, while the first ran until 100; a third after a pause.
  const { nanoseconds, end } = durationsOf(BigUint64Array.of(10n, 100n, 20n, 160n, 200n, 250n), 0n);
  assert.equal(nanoseconds, [90, 60, 50]);
  assert.equal(durationsOf(BigUint64Array.of(230n, 240n, 235n, 300n), end).nanoseconds, [0, 50]);
});

test('a profile has one row a kernel and grid, one time a dispatch', async () => {
  const device = await testDevice();
  if (!device.capabilities.timestamps) {
    const error = await failureOf(device.profile(() => {}));
    assert.match(error.message, /has no timestamp queries/);
    return;
  }
  const x = device.full([100], 1);
  const program = device.record('profiled', () => affine(square(x), 2));
  const profiler = await device.profile(() => {
    for (let i = 0; i < 300; i++) device.scope(() => affine(affine(x, 2), 2)); // more than a query set holds
    device.scope(() => square(x));
    program.run();
  });
  const times = await profiler.times();
  assert.is(times.length, 603);
  assert.ok(times.every((t) => Number.isFinite(t.microseconds) && t.microseconds >= 0));
  // Dawn quantises to 65,536 ns unless told not to.
  assert.ok(times.some((t) => Math.round(t.microseconds * 1000) % 65536 !== 0));
  const table = await profiler.table();
  const calls = Object.fromEntries(table.map((row) => [row.name.replace(/\[.*/, ''), row.calls]));
  assert.equal(calls, { affine: 601, square: 2 });
  assert.equal(table[0]!.grid, linearGrid(25).join('×'));
  for (let i = 1; i < table.length; i++) assert.ok(table[i - 1]!.microseconds >= table[i]!.microseconds);
  // Afterwards nothing is timed.
  device.scope(() => affine(x, 2));
  await device.sync();
  assert.is((await profiler.times()).length, 603);
  program.dispose();
  x.dispose();
});

test('errors are CmapErrors of one line with their own names', () => {
  const errors = [
    new ShapeError('a'),
    new InputError('a'),
    new AdapterError('a'),
    new OutOfMemoryError('a'),
    new DeviceLostError('a'),
    new KernelError('a', 'source'),
  ];
  for (const error of errors) {
    assert.instance(error, CmapError);
    assert.is(error.name, error.constructor.name.replace(/^_/, ''));
  }
  assert.throws(
    () => check(false, () => 'op: 3 is not 4'),
    (e: Error) => e instanceof ShapeError && e.message === 'op: 3 is not 4',
  );
  check(true, () => assert.unreachable('built without a failure') as never);
  assert.equal([0, 1023, 1536, 5 << 20, 3 * 2 ** 30].map(formatBytes), [
    '0 B',
    '1023 B',
    '1.5 KiB',
    '5.0 MiB',
    '3.0 GiB',
  ]);
});

test('large arguments stay finite: tanh, sigmoid and silu at ±100 and ±10,000', async () => {
  const device = await testDevice();
  const x = device.tensor([100, -100, 10_000, -10_000, 0], [5]);
  for (const [f, want] of [
    [tanh, [1, -1, 1, -1, 0]],
    [sigmoid, [1, 0, 1, 0, 0.5]],
    [silu, [100, 0, 10_000, 0, 0]],
  ] as const) {
    const [y, g] = device.scope(() => {
      const { output, pullback } = vjp(f, [x]);
      return [output, pullback()[0]!];
    });
    assertClose(await y!.floats(), want, 1e-6, 'value');
    assert.ok((await g!.floats()).every(Number.isFinite), 'gradient');
    y!.dispose();
    g!.dispose();
  }
  x.dispose();
});

test('a rectified NaN stays one, by itself and behind batch normalisation', async () => {
  const device = await testDevice();
  const x = device.tensor([Number.NaN, -1, 2, Number.NaN], [1, 4]);
  const [one, zero] = [device.full([4], 1), device.zeros([4])];
  const parameters = { scale: one, bias: zero, mean: zero, variance: one };
  for (const y of [relu(x), batchNorm(x, parameters, { eps: 1e-12, relu: true })]) {
    assert.equal([...(await y.floats())], [Number.NaN, 0, 2, Number.NaN]);
    y.dispose();
  }
  for (const t of [x, one, zero]) t.dispose();
});

test('bounds do not swallow a NaN: clamp, sigmoid, tanh and silu, one number or four at a time', async () => {
  const device = await testDevice();
  for (const size of [3, 4]) {
    const x = device.tensor(Float32Array.from({ length: size }, (_, i) => (i === 1 ? Number.NaN : 3 * i)));
    for (const f of [(u: Tensor) => clamp(u, -1, 1), sigmoid, tanh, silu]) {
      const y = device.scope(() => f(x));
      assert.equal(
        Array.from(await y.floats(), Number.isNaN),
        Array.from({ length: size }, (_, i) => i === 1),
      );
      y.dispose();
    }
    x.dispose();
  }
});

test('tanh keeps its digits near 0', async () => {
  const device = await testDevice();
  const x = Float32Array.from([1e-8, -1e-6, 1e-4, 0.01, 0.1, 0.1999, 0.2, 0.3, -0.199]);
  const y = device.scope(() => tanh(device.tensor(x)));
  (await y.floats()).forEach((value, i) => {
    const want = Math.tanh(x[i] as number);
    assert.ok(Math.abs(value / want - 1) < 1e-6, `tanh(${x[i]}) is ${want}, got ${value}`);
  });
  y.dispose();
});

test('numbers of another type are refused, not taken for f32', async () => {
  const device = await testDevice();
  const u = device.zeros([1, 4, 4, 4], 'u32');
  const flat = device.zeros([4, 4], 'u32');
  const w = device.zeros([4, 4]);
  const four = device.zeros([4]);
  const parameters = { scale: four, bias: four, mean: four, variance: four };
  for (const [text, f] of [
    ['matmul: a [4,4]', () => matmul(flat, w)],
    ['linear: w [4,4]', () => linear(w, flat)],
    ['conv2d: x [1,4,4,4]', () => conv2d(u, device.zeros([1, 1, 4, 4]))],
    ['softmax: x [4,4]', () => softmax(flat)],
    ['groupNorm: x [1,4,4,4]', () => groupNorm(u, four, four, { groups: 1, eps: 1 })],
    ['batchNorm: x [4,4]', () => batchNorm(flat, parameters, { eps: 1 })],
    ['upfirdn: x [1,4,4,4]', () => firDownsample(u)],
    ['attention: k [1,4,4]', () => attention(reshape(w, [1, 4, 4]), reshape(flat, [1, 4, 4]), w)],
    ['crossEntropy: logits [4,4]', () => crossEntropy(flat, device.zeros([4], 'u32'))],
  ] as const)
    assert.throws(
      () => device.scope(f),
      (e: Error) => e instanceof ShapeError && e.message === `${text} is u32, not f32`,
    );
  for (const t of [u, flat, w, four]) t.dispose();
});

test('NaN is seen in its bits, on the device and after reading', async () => {
  const device = await testDevice();
  // A quiet NaN, a signalling one, negative, ±infinity, the largest number, 0.
  const words = [0x7fc00000, 0x7f800001, 0xffc00001, 0x7f800000, 0xff800000, 0x7f7fffff, 0];
  const x = device.tensor(new Float32Array(Uint32Array.from(words).buffer));
  const y = device.empty([7], 'u32');
  const k = kernel(
    'nan test',
    `@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(7) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  y[id.x] = select(0u, 1u, (bitcast<u32>(x[id.x]) & 0x7fffffffu) > 0x7f800000u);
}`,
  );
  device.run(k, { x, y }, {}, [1, 1, 1]);
  assert.equal([...(await y.read())], [1, 1, 1, 0, 0, 0, 0]);
  const values = device.tensor([Number.NaN, Number.POSITIVE_INFINITY, -0], [3]);
  const back = await values.floats();
  assert.ok(Number.isNaN(back[0]) && back[1] === Number.POSITIVE_INFINITY && Object.is(back[2], -0));
  const large = device.tensor([89, -200], [2]);
  const e = exp(large);
  assert.equal([...(await e.floats())], [Number.POSITIVE_INFINITY, 0]);
  for (const t of [x, y, values, large, e]) t.dispose();
});

test.run();
