import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import type { Capabilities } from '../../src/engine/capabilities.ts';
import { ShapeError } from '../../src/engine/errors.ts';
import { chooseMatmulKernel, linear, type MatmulVariant, matmul, sumRows } from '../../src/kernels/matmul.ts';
import { assertClose, checkOp, lcg, testDevice } from '../support.ts';

checkOp('matmul', {
  run: ({ x, w, bias, a, b }, { linear: dense, ...options }) =>
    dense ? linear(x!, w!, bias) : matmul(a!, b!, options),
});

const test = suite('matmul kernels');
const gpu: Capabilities = {
  cpu: false,
  subgroups: true,
  subgroupSize: 32,
  pinnedSubgroup: 0,
  matrix: 0,
  timestamps: true,
  texels: false,
  maxTexels: 2 ** 27,
  maxInvocations: 256,
  maxWorkgroupStorage: 16384,
  maxBinding: 2 ** 31 - 4,
  maxGrid: 65535,
};
const lavapipe: Capabilities = { ...gpu, cpu: true, subgroupSize: 8, texels: true };

test('every variant equals the direct one, forward and gradients', async () => {
  const device = await testDevice();
  const { subgroupSize } = device.capabilities;
  const variants: MatmulVariant[] = ['tiled', 'tiled-64-plain', 'tiled-64-tall', 'tiled-128'];
  if (subgroupSize === 4 || subgroupSize === 8)
    variants.push('subgroup', 'subgroup-8x4', 'texels', 'texels-8x4');
  const random = lcg(3);
  const shapes: [number[], number[], boolean, boolean][] = [
    [[2, 35, 20], [2, 20, 28], false, false],
    [[37, 18], [18, 41], false, false],
    [[3, 16, 9], [16, 33], true, false],
    [[36, 24], [70, 24], false, true],
    [[2, 12, 36], [2, 9, 12], true, true],
    [[384, 8], [8, 12], false, false],
    [[2, 18, 36], [2, 18, 40], true, false],
  ];
  const tiledShapes = new Set([0, 1, 5].map((i) => shapes[i]?.[0]));
  for (const [a, b, transposeA, transposeB] of shapes) {
    const make = (shape: number[]) =>
      device.tensor(Float32Array.from({ length: shape.reduce((p, d) => p * d) }, random), shape);
    const inputs = [make(a), make(b)];
    const all = async (variant: MatmulVariant) => {
      const tensors = device.scope(() => {
        const f = vjp((p, q) => matmul(p, q, { transposeA, transposeB, scale: 0.5, variant }), inputs);
        return [f.output, ...f.pullback(f.output)];
      });
      const values = await Promise.all(tensors.map((t) => t.floats()));
      for (const t of tensors) t.dispose();
      return values;
    };
    const want = await all('direct');
    for (const variant of variants) {
      // Each tiled pipeline takes a software driver a second or more to compile: a few shapes must do.
      if (variant === 'tiled' && !tiledShapes.has(a)) continue;
      if (variant.startsWith('tiled-') && a !== shapes[0]?.[0]) continue;
      (await all(variant)).forEach((got, i) => {
        assertClose(got, want[i] as Float32Array, 1e-6, `${variant} [${a}]x[${b}] ${['y', 'da', 'db'][i]}`);
      });
    }
    for (const t of inputs) t.dispose();
  }
});

test('sumRows in two passes', async () => {
  const device = await testDevice();
  const x = device.tensor(Float32Array.from({ length: 3000 }, lcg(1)), [1000, 3]);
  const y = sumRows(x, 2);
  const values = await x.floats();
  assertClose(
    await y.floats(),
    [0, 1, 2].map((c) => 2 * values.filter((_, i) => i % 3 === c).reduce((a, b) => a + b)),
    1e-5,
    'sumRows',
  );
  x.dispose();
  y.dispose();
});

test('the choice of a kernel', () => {
  const pick = (shape: [number, number, number, number], capabilities: Capabilities, texels = true) => {
    const [batch, m, n, k] = shape;
    const { why, ...choice } = chooseMatmulKernel({ batch, m, n, k, texels }, capabilities);
    return choice;
  };
  const buffers = { variant: 'subgroup', lanes: 8, rows: 16, texels: false };
  const texels = { ...buffers, columns: 4, texels: true };
  assert.equal(pick([1, 3136, 24, 216], lavapipe), texels);
  assert.equal(pick([1, 3136, 24, 216], lavapipe, false), { ...buffers, columns: 3 });
  assert.equal(pick([1, 3136, 4, 216], lavapipe), { ...buffers, columns: 1 });
  assert.equal(pick([1, 3136, 64, 576], { ...lavapipe, subgroupSize: 4 }), { ...texels, lanes: 4 });
  assert.equal(pick([1, 3136, 64, 576], lavapipe), texels);
  assert.equal(pick([1, 3136, 64, 576], { ...lavapipe, texels: false }), { ...buffers, columns: 4 });
  assert.equal(pick([1, 3136, 64, 576], lavapipe, false), { ...buffers, columns: 4 }, 'it does not fit');
  assert.equal(pick([1, 16, 64, 576], lavapipe), { ...buffers, columns: 4 }, 'too little use of a copy');
  assert.equal(pick([1, 16, 16, 16], lavapipe), { variant: 'direct' });
  assert.equal(pick([1, 3136, 24, 216], { ...lavapipe, subgroups: false }), { variant: 'direct' });
  assert.equal(pick([1, 1024, 1024, 1024], gpu), { variant: 'tiled', tile: 64, way: 'ahead' });
  assert.equal(pick([1, 256, 256, 1024], gpu), { variant: 'tiled', tile: 32, way: 'ahead' });
  assert.equal(
    pick([36, 160, 256, 256], gpu),
    { variant: 'tiled', tile: 32, way: 'ahead' },
    'less past the edge',
  );
  assert.equal(pick([1, 4096, 4096, 64], gpu), { variant: 'tiled', tile: 128, way: 'ahead' });
  assert.equal(pick([1, 1e6, 4, 216], gpu), { variant: 'direct' });
  assert.equal(pick([70000, 64, 64, 64], gpu), { variant: 'direct' });
  assert.equal(
    pick([1, 65535 * 32 + 1, 16, 216], gpu),
    { variant: 'tiled', tile: 64, way: 'ahead' },
    'rows beyond the grid of its usual tile',
  );
  // More columns than a grid has workgroups for.
  assert.equal(pick([1, 8, 65535 * 128 + 1, 8], gpu), { variant: 'direct' });
  assert.equal(pick([1, 8, 65535 * 32 + 1, 8], lavapipe), { variant: 'direct' });
  assert.equal(pick([1, 64, 64, 0], gpu), { variant: 'direct' });
  assert.throws(
    () => chooseMatmulKernel({ batch: 1, m: 8, n: 8, k: 8 }, gpu, 'subgroup'),
    /subgroups of exactly 4 or 8/,
  );
});

test('errors state the numbers', async () => {
  const device = await testDevice();
  const zeros = (...shape: number[]) => device.zeros(shape);
  const fails = (f: () => unknown, text: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && text.test(e.message));
  device.scope(() => {
    fails(() => matmul(zeros(2, 3), zeros(4, 5)), /inner dimensions 3 and 4/);
    fails(() => matmul(zeros(2, 2, 3), zeros(3, 3, 5)), /batches 2 and 3/);
    fails(() => matmul(zeros(3), zeros(3, 5)), /not matrices/);
    fails(() => matmul(zeros(2, 3), zeros(4, 3, 5)), /a \[2,3\] is no batch, b \[4,3,5\] is one/);
    fails(() => linear(zeros(2, 3), zeros(4, 5)), /3 features.*wants 4/);
    fails(() => linear(zeros(2, 3), zeros(3, 5), zeros(4)), /bias \[4\] is not \[5\]/);
  });
});

test.run();
