import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import { ShapeError } from '../../src/engine/errors.ts';
import {
  type Conv2dVariant,
  chooseConv2dKernel,
  conv2d,
  conv2dCandidates,
} from '../../src/kernels/conv2d.ts';
import { matmul } from '../../src/kernels/matmul.ts';
import { assertClose, checkOp, lcg, testDevice } from '../support.ts';

checkOp('conv2d', {
  run: ({ x, w, bias }, { stride, padding }) => conv2d(x!, w!, { bias, stride, padding }),
});

const test = suite('conv2d kernels');

test('a convolution or product leaves nothing but its result, outside of scopes too', async () => {
  const device = await testDevice();
  const random = lcg(7);
  const make = (...shape: number[]) =>
    device.tensor(Float32Array.from({ length: shape.reduce((p, d) => p * d) }, random), shape);
  const [x, w, a, b] = [make(1, 8, 8, 16), make(3, 3, 16, 16), make(16, 16), make(16, 16)];
  const { tensors } = device.memory();
  for (const f of [
    () => conv2d(x, w, { padding: 1, variant: 'winograd' }),
    () => conv2d(x, w, { padding: 1, variant: 'tiled-32-split' }),
    () => matmul(a, b, { variant: 'direct' }),
    ...(device.capabilities.texels
      ? [() => conv2d(x, w, { padding: 1, variant: 'texels' }), () => matmul(a, b, { variant: 'texels' })]
      : []),
  ]) {
    const y = f();
    assert.is(device.memory().tensors, tensors + 1);
    y.dispose();
  }
  for (const t of [x, w, a, b]) t.dispose();
});

test('every variant equals the direct one, forward and gradients', async () => {
  const device = await testDevice();
  const { subgroupSize } = device.capabilities;
  const variants: Conv2dVariant[] = ['tiled', 'tiled-32-split', 'tiled-64-plain', 'tiled-128', 'winograd'];
  if (subgroupSize === 4 || subgroupSize === 8) variants.push('subgroup', 'subgroup-8x2', 'texels');
  const random = lcg(5);
  const shapes: [number[], number[], number, [number, number, number, number]][] = [
    [[2, 5, 7, 8], [3, 3, 8, 24], 1, [1, 1, 1, 1]],
    [[1, 6, 5, 12], [1, 1, 12, 36], 1, [0, 0, 0, 0]],
    [[2, 5, 5, 3], [3, 3, 3, 5], 1, [1, 1, 1, 1]],
    [[1, 5, 6, 4], [3, 3, 4, 4], 1, [0, 1, 2, 0]],
    [[2, 7, 8, 4], [3, 3, 4, 8], 2, [1, 1, 1, 1]],
    [[1, 8, 6, 4], [3, 3, 4, 8], 2, [0, 1, 0, 1]],
    [[1, 9, 7, 4], [2, 2, 4, 4], 3, [1, 0, 0, 2]],
    [[1, 5, 6, 16], [3, 3, 16, 20], 1, [1, 1, 1, 1]],
  ];
  const tiledShapes = new Set([0, 2, 4, 7].map((i) => shapes[i]?.[0]));
  for (const [xShape, wShape, stride, padding] of shapes) {
    const make = (shape: number[]) =>
      device.tensor(Float32Array.from({ length: shape.reduce((p, d) => p * d) }, random), shape);
    const inputs = [make(xShape), make(wShape), make([wShape[3] as number])];
    const all = async (variant: Conv2dVariant) => {
      const tensors = device.scope(() => {
        const f = vjp((x, w, bias) => conv2d(x, w, { bias, stride, padding, variant }), inputs);
        return [f.output, ...f.pullback(f.output)];
      });
      const values = await Promise.all(tensors.map((t) => t.floats()));
      for (const t of tensors) t.dispose();
      return values;
    };
    const want = await all('direct');
    for (const variant of variants) {
      // Elsewhere it is what is chosen without it.
      if (variant === 'winograd' && (stride !== 1 || wShape[0] !== 3)) continue;
      // Each tiled pipeline takes a software driver a second or more to compile: a few shapes must do.
      if (variant === 'tiled' && !tiledShapes.has(xShape)) continue;
      const few = variant === 'tiled-32-split' ? [0, 4] : variant === 'tiled-64-plain' ? [7] : [0];
      if (variant.startsWith('tiled-') && !few.some((i) => xShape === shapes[i]?.[0])) continue;
      (await all(variant)).forEach((got, i) => {
        // Winograd's transforms round twice as much as sums do.
        assertClose(
          got,
          want[i] as Float32Array,
          variant === 'winograd' ? 5e-6 : 1e-6,
          `${variant} [${xShape}]*[${wShape}] ${['y', 'dx', 'dw', 'dbias'][i]}`,
        );
      });
    }
    for (const t of inputs) t.dispose();
  }
});

test('the choice of a kernel', async () => {
  const { capabilities } = await testDevice();
  const gpu = { ...capabilities, cpu: false, subgroupSize: 32 };
  const pick = (pixels: number, taps: number, cin: number, cout: number, dilation = 1) => {
    const { why, ...choice } = chooseConv2dKernel({ pixels, taps, cin, cout, dilation }, gpu);
    return choice;
  };
  assert.equal(pick(8 * 32 * 32, 9, 64, 64), { variant: 'tiled', tile: 64, way: 'split' }, '128 tiles');
  assert.equal(pick(32 * 32 * 32, 9, 64, 64), { variant: 'tiled', tile: 64, way: 'ahead' });
  assert.equal(pick(16 * 14 * 14, 9, 24, 24), { variant: 'tiled', tile: 32, way: 'split' }, '98 tiles');
  assert.equal(pick(256 * 32 * 32, 9, 256, 256), { variant: 'tiled', tile: 128, way: 'ahead' });
  assert.equal(pick(16 * 14 * 14, 9, 24, 4), { variant: 'direct' });
  assert.equal(
    chooseConv2dKernel({ pixels: 100, taps: 9, cin: 4, cout: 4 }, { ...gpu, cpu: true }).variant,
    'direct',
  );
  const cpu = { ...gpu, cpu: true };
  const wide = { pixels: 10 * 16 * 16, taps: 9, cin: 256, cout: 256, tiles: 10 * 4 * 4 };
  const named = (...args: Parameters<typeof chooseConv2dKernel>) => chooseConv2dKernel(...args).variant;
  assert.is(named(wide, cpu), 'winograd');
  assert.is(named(wide, gpu), 'winograd');
  assert.is(
    named({ ...wide, pixels: 10 * 4 * 4, tiles: 10 }, gpu),
    'tiled',
    'its transforms would take as long',
  );
  assert.is(named(wide, gpu, 'winograd'), 'winograd');
  assert.is.not(named({ ...wide, cin: 16, cout: 16 }, cpu), 'winograd', 'transforms cost more than it saves');
  assert.is.not(named({ ...wide, tiles: 0 }, cpu, 'winograd'), 'winograd', 'not 3x3, or strided');
  assert.is.not(
    named(wide, { ...cpu, maxBinding: 2 ** 22 }, 'winograd'),
    'winograd',
    'does not fit a buffer',
  );
  assert.is.not(named(wide, { ...cpu, matrix: 16 }, 'winograd'), 'winograd', 'factors are rounded to f16');
  const layer = { op: 'conv2d', batch: 2, cin: 8, kh: 3, kw: 3, cout: 8, oh: 8, ow: 8, stride: 1 };
  const tunable = (change: object) => conv2dCandidates({ ...layer, ...change }, gpu).includes('winograd');
  assert.equal([tunable({}), tunable({ stride: 2 }), tunable({ dilation: 2 })], [true, false, false]);
});

test('errors state the numbers', async () => {
  const device = await testDevice();
  const zeros = (...shape: number[]) => device.zeros(shape);
  const fails = (f: () => unknown, text: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && text.test(e.message));
  device.scope(() => {
    const x = zeros(1, 4, 4, 3);
    fails(() => conv2d(zeros(4, 4, 3), zeros(1, 1, 3, 2)), /not \[N,H,W,C\]/);
    fails(() => conv2d(x, zeros(3, 3, 4, 2)), /3 channels.*wants 4/);
    fails(() => conv2d(x, zeros(5, 5, 3, 2)), /5x5 kernel does not fit 4x4/);
    fails(() => conv2d(x, zeros(3, 3, 3, 2), { bias: zeros(3) }), /bias \[3\] is not \[2\]/);
    fails(() => conv2d(x, zeros(3, 3, 3, 2), { stride: 0 }), /stride 0/);
    fails(() => conv2d(x, zeros(3, 3, 3, 2), { padding: [0, -1, 0, 0] }), /padding/);
  });
});

test.run();
