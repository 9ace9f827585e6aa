import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import { ShapeError } from '../../src/engine/errors.ts';
import { sizeOf, type Tensor } from '../../src/engine/tensor.ts';
import { chooseGroupNormKernel, type GroupNormVariant, groupNorm } from '../../src/kernels/group-norm.ts';
import { assertClose, checkOp, lcg, testDevice } from '../support.ts';

for (const variant of ['registers', 'workgroup'] as GroupNormVariant[]) {
  checkOp('group-norm', {
    run: ({ x, scale, bias, modulation }, { groups, eps, silu }) =>
      groupNorm(x!, scale!, bias!, { groups, eps, silu, modulation, variant }),
    // At an offset of 100 a float32 x itself is known to 4e-6 of its deviation.
    tolerance: { forward: 6e-6, gradient: 2e-5 },
    finiteDifferences: variant === 'registers',
  });
}

const test = suite('group-norm room');

test('variants agree at the shapes of networks', async () => {
  const device = await testDevice();
  for (const [n, side, c, groups] of [
    [2, 14, 24, 6],
    [1, 7, 48, 12],
    [1, 3, 520, 2],
    [1, 1, 1024, 1],
    [1, 34, 16, 1], // more than an invocation keeps
  ] as const) {
    const random = lcg(c);
    const draw = (shape: number[]) => device.tensor(Array.from({ length: sizeOf(shape) }, random), shape);
    const [x, scale, bias, dy] = [draw([n, side, side, c]), draw([c]), draw([c]), draw([n, side, side, c])];
    const [safe, fast] = (['registers', 'workgroup'] as const).map((variant) =>
      device.scope(() => {
        const f = (...[x, scale, bias]: Tensor[]) =>
          groupNorm(x!, scale!, bias!, { groups, eps: 1e-6, silu: true, variant });
        const { output, pullback } = vjp(f, [x, scale, bias]);
        return [output, ...pullback(dy)];
      }),
    );
    for (const [i, t] of fast!.entries())
      assertClose(await t.floats(), await safe![i]!.floats(), 3e-6, `output ${i} at ${x.shape}`);
    for (const t of [x, scale, bias, dy, ...safe!, ...fast!]) t.dispose();
  }
});

test('mistakes are named', async () => {
  const device = await testDevice();
  const x = device.zeros([2, 3, 3, 48]);
  const p = device.zeros([48]);
  const fails = (f: () => unknown, pattern: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && pattern.test(e.message));
  fails(() => groupNorm(x, p, p, { groups: 32, eps: 1e-5 }), /48 channels do not divide into 32 groups/);
  fails(() => groupNorm(x, p, device.zeros([24]), { groups: 4, eps: 1e-5 }), /bias \[24\] is not \[48\]/);
  fails(
    () => groupNorm(x, p, p, { groups: 4, eps: 1e-5, modulation: p }),
    /modulation \[48\] is not \[2,96\]/,
  );
  fails(() => groupNorm(x, p, p, { groups: 4, eps: 0 }), /eps 0 is not positive/);
  fails(() => groupNorm(x, p, p, { groups: 1.5, eps: 1e-5 }), /groups 1.5/);
});

test('choice', () => {
  const shape = { batch: 16, pixels: 196, channels: 24, groups: 6 };
  assert.equal(chooseGroupNormKernel(shape, { cpu: true }), {
    variant: 'registers',
    lanes: 4,
    width: 1,
    threads: 0,
    rows: 0,
    keep: 0,
  });
  assert.equal(chooseGroupNormKernel(shape, { cpu: false }), {
    variant: 'workgroup',
    lanes: 4,
    width: 1,
    threads: 256,
    rows: 256,
    keep: 1,
  });
  const few = chooseGroupNormKernel({ ...shape, batch: 1, groups: 1 }, { cpu: false });
  assert.equal(few, { variant: 'workgroup', lanes: 4, width: 6, threads: 256, rows: 32, keep: 8 });
  assert.is(chooseGroupNormKernel({ ...shape, channels: 30 }, { cpu: false }).lanes, 1);
  assert.is(chooseGroupNormKernel({ ...shape, pixels: 49 }, { cpu: false }).threads, 64);
  assert.is(
    chooseGroupNormKernel({ batch: 1, pixels: 4, channels: 2048, groups: 1 }, { cpu: false }).variant,
    'registers',
  );
});

test.run();
