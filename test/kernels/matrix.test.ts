/**
 * Products by matrices of f16. Factors that f16 holds exactly leave only the order of sums, so the results must be
 * those of the f32 kernels; what rounding costs is measured apart, on a network.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import type { Capabilities } from '../../src/engine/capabilities.ts';
import { Device } from '../../src/engine/device.ts';
import { AdapterError } from '../../src/engine/errors.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { conv2d } from '../../src/kernels/conv2d.ts';
import { chooseMatmulKernel, type MatmulVariant, matmul } from '../../src/kernels/matmul.ts';
import { matrixFits } from '../../src/kernels/matrix.ts';
import { assertClose, lcg, relativeError } from '../support.ts';

const test = suite('matrix kernels');

/** A device with matrices, or null. */
const opened = Device.open({ precision: 'f16' }).catch((error) => {
  if (!(error instanceof AdapterError)) throw error;
  console.log(`skipped: ${error.message}`);
  return null;
});
test.after(async () => (await opened)?.close());

type Case = { name: string; inputs: number[][]; run: (tensors: Tensor[], variant: MatmulVariant) => Tensor };

const cases: Case[] = [
  ...(
    [
      [[2, 35, 20], [2, 20, 28], false, false],
      [[37, 18], [18, 41], false, false],
      [[3, 16, 9], [16, 33], true, false],
      [[36, 24], [70, 24], false, true],
      [[2, 40, 36], [2, 33, 40], true, true],
      [[700, 24], [24, 150], false, false],
    ] as [number[], number[], boolean, boolean][]
  ).map(([a, b, transposeA, transposeB]) => ({
    name: `[${a}]x[${b}]`,
    inputs: [a, b],
    run: ([p, q]: Tensor[], variant: MatmulVariant) =>
      matmul(p as Tensor, q as Tensor, { transposeA, transposeB, scale: 0.5, variant }),
  })),
  ...(
    [
      [[2, 9, 7, 16], [3, 3, 16, 40], 1, [1, 1, 1, 1]],
      [[2, 5, 5, 3], [3, 3, 3, 5], 1, [1, 1, 1, 1]],
      [[2, 7, 8, 20], [3, 3, 20, 24], 2, [0, 1, 0, 1]],
    ] as [number[], number[], number, [number, number, number, number]][]
  ).map(([x, w, stride, padding]) => ({
    name: `[${x}]*[${w}]`,
    inputs: [x, w, [w[3] as number]],
    run: ([image, kernel, bias]: Tensor[], variant: MatmulVariant) =>
      conv2d(image as Tensor, kernel as Tensor, { bias: bias as Tensor, stride, padding, variant }),
  })),
];

/** y and the gradients for a cotangent whose elements are far below what f16 holds. */
async function all(device: Device, { inputs, run }: Case, variant: MatmulVariant): Promise<Float32Array[]> {
  const random = lcg(3);
  const exact = (scale: number) => () => (Math.round(256 * random()) / 256) * scale;
  const make = (shape: readonly number[], scale: number) =>
    device.tensor(Float32Array.from({ length: shape.reduce((p, d) => p * d) }, exact(scale)), shape);
  const tensors = inputs.map((shape) => make(shape, 1));
  const results = device.scope(() => {
    const { output, pullback } = vjp((...t) => run(t, variant), tensors);
    return [output, ...pullback(make(output.shape, 2 ** -40))];
  });
  const values = await Promise.all(results.map((t) => t.floats()));
  for (const t of [...tensors, ...results]) t.dispose();
  return values;
}

for (const tile of [32, 64, 128] as const) {
  test(`tiles of ${tile}: exact factors give the results of the f32 kernels`, async () => {
    const device = await opened;
    if (!device || !matrixFits(tile, device.capabilities)) return;
    // Each shape is three pipelines, which take a software driver seconds.
    for (const one of tile === 32 ? cases : [cases[0] as Case, cases[6] as Case]) {
      const want = await all(device, one, 'direct');
      const got = await all(device, one, `matrix-${tile}`);
      for (const [i, values] of want.entries())
        assertClose(got[i] as Float32Array, values, 3e-5, `${one.name} result ${i}`);
    }
  });
}

test('rounding costs no more than f16 does, and what f16 cannot hold shows', async () => {
  const device = await opened;
  if (!device) return;
  const random = lcg(5);
  const [a, b] = [0, 1].map(() =>
    device.tensor(Float32Array.from({ length: 64 * 64 }, random), [64, 64]),
  ) as [Tensor, Tensor];
  const values = async (variant: MatmulVariant) => {
    const y = matmul(a, b, { variant });
    const result = await y.floats();
    y.dispose();
    return result;
  };
  const error = relativeError(await values('matrix-32'), await values('direct'));
  assert.ok(error > 1e-5 && error < 1e-3, `relative error ${error}`);
  device.write(b, new Float32Array(64 * 64).fill(1));
  for (const wrong of [1e6, Number.NaN]) {
    device.write(a, new Float32Array(64 * 64).fill(1).fill(wrong, 64, 65));
    (await values('matrix-32')).forEach((y, i) => {
      assert.is(Number.isFinite(y), Math.floor(i / 64) !== 1, `row ${Math.floor(i / 64)} for ${wrong}`);
    });
  }
  a.dispose();
  b.dispose();
});

test("the kernels of 8x8 and 16x16 compile on Dawn's null backend", async () => {
  const device = await Device.open({ adapter: 'null' });
  // The null device has subgroups of up to 128, which four of 32 fill.
  const sizes: Partial<Capabilities>[] = [
    { matrix: 8, subgroupSize: 32 },
    { matrix: 16, subgroupSize: 32 },
    { matrix: 16, subgroupSize: 0, pinnedSubgroup: 32 },
  ];
  for (const size of sizes) {
    device.capabilities = { ...device.capabilities, ...size };
    for (const variant of ['matrix-32', 'matrix-64'] as const)
      for (const one of [cases[1], cases[4], cases[6]] as Case[])
        device
          .scope(() => {
            const tensors = one.inputs.map((shape) => device.empty(shape));
            const { output, pullback } = vjp((...t) => one.run(t, variant), tensors);
            return [output, ...pullback(output)];
          })
          .forEach((t) => {
            t.dispose();
          });
  }
  await device.sync();
  device.close();
});

test('the choice of a kernel', () => {
  const capabilities: Capabilities = {
    cpu: false,
    subgroups: true,
    subgroupSize: 32,
    pinnedSubgroup: 0,
    matrix: 16,
    timestamps: true,
    texels: false,
    maxTexels: 2 ** 27,
    maxInvocations: 1024,
    maxWorkgroupStorage: 49152,
    maxBinding: 2 ** 31 - 4,
    maxGrid: 65535,
  };
  const pick = (m: number, n: number, k: number, more: Partial<Capabilities> = {}) => {
    const choice = chooseMatmulKernel({ batch: 1, m, n, k }, { ...capabilities, ...more });
    return `${choice.variant} ${'tile' in choice ? choice.tile : ''}`;
  };
  assert.is(pick(4096, 4096, 4096), 'matrix 128');
  assert.is(pick(4096, 4096, 4096, { maxWorkgroupStorage: 16384 }), 'matrix 64');
  assert.is(pick(4096, 4096, 4096, { maxInvocations: 128 * 2 - 1 }), 'matrix 64');
  assert.is(pick(10240, 128, 1152), 'matrix 64');
  assert.is(pick(256, 256, 256), 'matrix 32');
  assert.is(pick(4096, 8, 512), 'tiled 32');
  assert.is(pick(4096, 4096, 4096, { matrix: 0 }), 'tiled 128');
  assert.throws(
    () => chooseMatmulKernel({ batch: 1, m: 64, n: 64, k: 64 }, { ...capabilities, matrix: 0 }, 'matrix'),
    /precision f16/,
  );
});

test.run();
