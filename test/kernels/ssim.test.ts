import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import { ShapeError } from '../../src/engine/errors.ts';
import { ssim, ssimTarget } from '../../src/kernels/ssim.ts';
import { assertClose, checkOp, lcg, loadFixture, testDevice } from '../support.ts';

checkOp('ssim', {
  run: ({ x, target }) => ssim(x as never, target as never),
  // Measured 1e-7 and, on the two flat images, 4e-6: there x − μ is a small difference of rounded numbers and C₂ = 9e-4 divides it.
  tolerance: { forward: 5e-7, gradient: 1e-5 },
  // "flat" is a maximum in y near which the function bends within a step.
  finiteDifferences: false,
});

const test = suite('ssim, its own');

test('a precomputed target gives the same bits', async () => {
  const device = await testDevice();
  const fixture = loadFixture('ssim');
  const name = 'K = 3 against each of 2 targets';
  const [x, y] = ['x', 'target'].map((n) => {
    const { data, shape } = fixture.get(`${name}.${n}`);
    return device.tensor(data, shape);
  });
  const results = device.scope(() => {
    const target = ssimTarget(y!);
    return [y!, target].flatMap((t) => {
      const { output, pullback } = vjp((u) => ssim(u, t), [x!]);
      return [output, pullback()[0]!, ssim(x!, t)];
    });
  });
  const [a, da, plain, b, db] = await Promise.all(results.map((t) => t.floats()));
  assert.equal(a, b);
  assertClose(plain!, a!, 2e-7, 'without a gradient, in other code');
  assert.equal(da, db);
  for (const t of [...results, x!, y!]) t.dispose();
});

test('gradient agrees with finite differences', async () => {
  const device = await testDevice();
  const random = lcg(11);
  const shape = [1, 9, 7, 2];
  const x = Float32Array.from({ length: 126 }, () => 0.5 + 0.4 * random());
  const y = device.tensor(
    Float32Array.from(x, (v) => v + 0.2 * random()),
    shape,
  );
  const direction = x.map(() => random());
  const value = async (h: number) => {
    const t = device.scope(() =>
      ssim(
        device.tensor(
          x.map((v, i) => v + h * direction[i]!),
          shape,
        ),
        y,
      ),
    );
    const [v] = await t.floats();
    t.dispose();
    return v!;
  };
  const g = device.scope(() => vjp((u) => ssim(u, y), [device.tensor(x, shape)]).pullback()[0]!);
  const gradient = await g.floats();
  const slope = gradient.reduce((s, v, i) => s + v * direction[i]!, 0);
  // Fourth order; the value's rounding 1e-7 over the step bounds the agreement.
  const h = 0.01;
  const near = ((await value(h)) - (await value(-h))) / (2 * h);
  const far = ((await value(2 * h)) - (await value(-2 * h))) / (4 * h);
  assertClose([(4 * near - far) / 3], [slope], 1e-3, 'slope');
  g.dispose();
  y.dispose();
});

test('an image is 1 like itself, with gradient 0', async () => {
  const device = await testDevice();
  const random = lcg(2);
  const x = device.tensor(
    Float32Array.from({ length: 300 }, () => 0.5 + 0.5 * random()),
    [1, 10, 10, 3],
  );
  const results = device.scope(() => {
    const { output, pullback } = vjp((u) => ssim(u, x), [x]);
    return [output, pullback()[0]!];
  });
  assertClose(await results[0]!.floats(), [1], 2e-7, 'ssim(x, x)');
  for (const v of await results[1]!.floats()) assert.ok(Math.abs(v) < 1e-7, `gradient ${v}`);
  for (const t of [...results, x]) t.dispose();
});

test('errors name the shapes', async () => {
  const device = await testDevice();
  device.scope(() => {
    const x = device.zeros([3, 4, 4, 1]);
    const bad = (e: Error) =>
      e instanceof ShapeError && /images \[3,4,4,1\] do not fit targets \[2,4,4,1\]/.test(e.message);
    assert.throws(() => ssim(x, device.zeros([2, 4, 4, 1])), bad);
    assert.throws(() => ssim(device.zeros([3, 4, 4]), device.zeros([3, 4, 4])), /wanted f32 \[B, H, W, C\]/);
    assert.throws(() => ssim(device.zeros([3, 16]), ssimTarget(x)), /wanted \[N, H, W, C\]/);
  });
});

test.run();
