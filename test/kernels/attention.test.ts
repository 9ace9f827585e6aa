import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ShapeError } from '../../src/engine/errors.ts';
import { type AttentionVariant, attention, chooseAttentionKernel } from '../../src/kernels/attention.ts';
import { checkOp, testDevice } from '../support.ts';

for (const variant of ['composed', 'fused'] as AttentionVariant[]) {
  checkOp('attention', {
    run: ({ q, k, v }, { heads, scale }) => attention(q!, k!, v!, { heads, scale, variant }),
    // "one token": y = v whatever q and k are, so their gradients are rounding around 0.
    tolerance: { forward: 4e-6, gradient: 2e-5 },
    finiteDifferences: false,
  });
}

const test = suite('attention room');

test('mistakes are named', async () => {
  const device = await testDevice();
  const x = device.zeros([2, 9, 16]);
  const fails = (f: () => unknown, pattern: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && pattern.test(e.message));
  fails(() => attention(device.zeros([9, 16]), x, x), /q \[9,16\] is not \[N,T,D\]/);
  fails(() => attention(x, device.zeros([1, 9, 16]), x), /k \[1,9,16\] is not \[2,S,16\]/);
  fails(() => attention(x, x, device.zeros([2, 8, 16])), /v \[2,8,16\] is not of the shape of k/);
  fails(() => attention(x, x, x, { heads: 3 }), /16 channels do not divide into 3 heads/);
});

test('choice', () => {
  const gpu = { cpu: false, subgroups: true, maxBinding: 2 ** 31, maxWorkgroupStorage: 16384 };
  const cpu = { ...gpu, cpu: true, maxBinding: 2 ** 27 };
  const adm = { batch: 16, heads: 4, queries: 256, keys: 256, channels: 64 };
  assert.equal(chooseAttentionKernel(adm, gpu), {
    variant: 'fused',
    lanes: 4,
    parts: 4,
    width: 4,
    threads: 64,
    tile: 16,
  });
  assert.is(chooseAttentionKernel(adm, { ...gpu, subgroups: false }).parts, 1);
  assert.is(chooseAttentionKernel({ ...adm, channels: 24 }, gpu).parts, 2);
  assert.is(chooseAttentionKernel({ ...adm, heads: 1, channels: 256 }, gpu).variant, 'composed');
  assert.is(chooseAttentionKernel(adm, cpu).variant, 'composed');
  // 64 matrices of 4096 x 4096 scores do not fit a binding of 128 MiB.
  assert.is(chooseAttentionKernel({ ...adm, queries: 4096, keys: 4096 }, cpu).variant, 'fused');
  assert.is(chooseAttentionKernel({ ...adm, queries: 4096, keys: 4096, channels: 512 }, cpu).tile, 2);
  assert.throws(
    () => chooseAttentionKernel({ ...adm, queries: 65536, keys: 65536, channels: 2052 }, gpu),
    /heads of 2052 channels take 16\.0 KiB of workgroup memory, the device has 16\.0 KiB, and scores take 1\.0 TiB/,
  );
});

test.run();
