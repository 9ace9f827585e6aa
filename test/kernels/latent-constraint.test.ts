import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import { ShapeError } from '../../src/engine/errors.ts';
import { latentConstraint, latentStatistics } from '../../src/kernels/latent-constraint.ts';
import { assertClose, checkOp, lcg, testDevice } from '../support.ts';

checkOp('latent-constraint', {
  run: ({ z }, options) => latentConstraint(z as never, options),
  // "narrow": z = 80 ± 0.01 in f32 carries each deviation with a relative error of 80 · 6e-8 / 0.01 = 5e-4, taken once more
  // by the rounding of the mean; the fixture's f32 inputs are exact, so what remains is the mean's rounding, 4e-4 at worst.
  tolerance: { gradient: 1e-4 },
  // "narrow" changes by less than the differences resolve.
  finiteDifferences: false,
});

const test = suite('latentConstraint, its own');

test('gradient agrees with finite differences of the float64 formula', async () => {
  const device = await testDevice();
  const random = lcg(5);
  const [b, k, n] = [2, 4, 6];
  const z = Float32Array.from({ length: b * k * n }, () => 100 * random());
  const loss = (v: ArrayLike<number>) => {
    let total = 0;
    for (let i = 0; i < b; i++) {
      for (let e = 0; e < n; e++) {
        const column = Array.from({ length: k }, (_, j) => v[(i * k + j) * n + e] as number);
        const m = column.reduce((s, x) => s + x) / k;
        const s = Math.sqrt(column.reduce((a, x) => a + (x - m) ** 2, 0) / (k - 1));
        total += (i + 1) * ((m ** 2 + (s - 80) ** 2) / n);
      }
    }
    return total;
  };
  const g = device.scope(() => {
    const { pullback } = vjp((u) => latentConstraint(u), [device.tensor(z, [b, k, n])]);
    return pullback(device.tensor([1, 2], [b]))[0];
  });
  const got = await g!.floats();
  g!.dispose();
  const want = got.map((_, i) => {
    const [up, down] = [0.01, -0.01].map((h) =>
      loss(Float64Array.from(z, (v, j) => (j === i ? v + h : v))),
    ) as [number, number];
    return (up - down) / 0.02;
  });
  assertClose(got, want, 1e-5, 'dz');
});

test('equal latents have a finite gradient, that of the mean alone', async () => {
  const device = await testDevice();
  const gradient = device.scope(() => {
    const { pullback } = vjp((u) => latentConstraint(u), [device.full([1, 5, 8], 3)]);
    return pullback()[0];
  });
  assertClose(await gradient!.floats(), new Array(40).fill((2 * 3) / 5 / 8), 1e-6, 'dz');
  gradient!.dispose();
});

test('K = 1 is refused, or loses the term of the standard deviation', async () => {
  const device = await testDevice();
  const values = device.scope(() => {
    const z = device.full([2, 1, 3], 7);
    assert.throws(
      () => latentConstraint(z),
      (e: Error) => e instanceof ShapeError && /K is 1 in \[2,1,3\]/.test(e.message),
    );
    const { output, pullback } = vjp((u) => latentConstraint(u, { allowSingle: true, mean: 1 }), [z]);
    return [output, pullback()[0], latentStatistics(z)];
  });
  assert.equal([...(await values[0]!.floats())], [36, 36]);
  assertClose(await values[1]!.floats(), new Array(6).fill(4), 1e-6, 'dz');
  assert.equal([...(await values[2]!.floats())], [7, 0, 7, 0]);
  for (const t of values) t!.dispose();
});

test('latentStatistics are the means of mean_k and std_k', async () => {
  const device = await testDevice();
  const random = lcg(3);
  for (const [b, k, n] of [
    [2, 3, 12],
    [1, 10, 1035],
  ] as const) {
    const data = Float32Array.from({ length: b * k * n }, () => 80 * random() + 4);
    const want = Array.from({ length: b }, (_, i) => {
      const pair = [0, 0] as [number, number];
      for (let e = 0; e < n; e++) {
        const column = Array.from({ length: k }, (_, j) => data[(i * k + j) * n + e] as number);
        const m = column.reduce((s, v) => s + v) / k;
        pair[0] += m / n;
        pair[1] += Math.sqrt(column.reduce((s, v) => s + (v - m) ** 2, 0) / (k - 1)) / n;
      }
      return pair;
    }).flat();
    const got = device.scope(() => latentStatistics(device.tensor(data, [b, k, n])));
    assert.equal([...got.shape], [b, 2]);
    assertClose(await got.floats(), want, 2e-6, 'statistics');
    got.dispose();
  }
});

test('a shape without latents is refused', async () => {
  const device = await testDevice();
  device.scope(() =>
    assert.throws(() => latentStatistics(device.zeros([4])), /latents are \[4\], wanted \[B, K, ...\]/),
  );
});

test.run();
