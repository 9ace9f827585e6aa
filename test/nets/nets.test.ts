/**
 * Networks end to end against PyTorch in float64 (test/fixtures/nets/make_nets.py). The promise: outputs within 1e-4,
 * input gradients within 1e-3, in norm; what is asserted is tighter, a small multiple of PyTorch's own float32 error,
 * which the fixtures state.
 */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import { InputError, ShapeError } from '../../src/engine/errors.ts';
import { ConsistencyModel, preconditioning, publishedSigmas } from '../../src/nets/consistency.ts';
import { type NcsnppConfig, ncsnppCifar10, ncsnppPlan } from '../../src/nets/ncsnpp.ts';
import { bindParameters, countParameters, type TensorSource } from '../../src/nets/parameters.ts';
import { WideResNet, type WideResNetConfig, wideResNetShapes } from '../../src/nets/wide-resnet.ts';
import { assertClose, fromNchw, loadFixture, parametersOf, testDevice, toNchw } from '../support.ts';

for (const name of ['ncsnpp-small', 'ncsnpp-patch']) {
  for (const sigma of ['80', '0.1395']) {
    test(`${name} at sigma ${sigma}: output and input gradient`, async () => {
      const device = await testDevice();
      const fixture = loadFixture(`nets/${name}`);
      const model = ConsistencyModel.load(
        device,
        JSON.parse(fixture.metadata.config as string),
        parametersOf(fixture),
      );
      const input = fixture.get(`x.${sigma}`);
      const x = device.tensor(...fromNchw(input));
      const cotangent = device.tensor(...fromNchw(fixture.get('cotangent')));
      const [y, dx] = device.scope(() => {
        const { output, pullback } = vjp((u) => model.denoise(u, Number(sigma)), [x]);
        return [output, ...pullback(cotangent)];
      });
      assertClose(toNchw(await y!.floats(), input.shape), fixture.get(`y.${sigma}`).data, 2e-5, 'y');
      assertClose(toNchw(await dx!.floats(), input.shape), fixture.get(`dx.${sigma}`).data, 5e-5, 'dx');
      for (const t of [x, cotangent, y!, dx!]) t.dispose();
      model.dispose();
    });
  }
}

test('wrn-small: logits and input gradient', async () => {
  const device = await testDevice();
  const fixture = loadFixture('nets/wrn-small');
  const net = WideResNet.load(device, JSON.parse(fixture.metadata.config as string), parametersOf(fixture));
  const input = fixture.get('x');
  const x = device.tensor(...fromNchw(input));
  const cotangent = fixture.get('cotangent');
  const [logits, dx] = device.scope(() => {
    const { output, pullback } = vjp((u) => net.logits(u), [x]);
    return [output, ...pullback(device.tensor(cotangent.data, cotangent.shape))];
  });
  assertClose(await logits!.floats(), fixture.get('logits').data, 1e-5, 'logits');
  // Kinks of ReLU: a unit near zero that changes side moves the gradient by more than rounding.
  assertClose(toNchw(await dx!.floats(), input.shape), fixture.get('dx').data, 1e-3, 'dx');
  for (const t of [x, logits!, dx!]) t.dispose();
  net.dispose();
});

test('the published CIFAR-10 NCSN++ has 56,395,651 parameters', () => {
  assert.is(countParameters(ncsnppPlan(ncsnppCifar10).shapes), 56_395_651);
});

test('wrn-28-10 has 36,479,194 trained parameters', () => {
  const shapes = wideResNetShapes({
    depth: 28,
    widen_factor: 10,
    num_classes: 10,
    in_channels: 3,
    image_size: 32,
  });
  assert.is(countParameters(new Map([...shapes].filter(([name]) => !name.includes('running')))), 36_479_194);
});

test('preconditioning at sigma 80 and at the boundary', () => {
  const at80 = preconditioning(80, publishedSigmas);
  assert.ok(Math.abs(at80.cIn - 0.0124998) < 1e-7);
  assert.ok(Math.abs(at80.cSkip - 3.9063e-5) < 1e-9);
  assert.ok(Math.abs(at80.cOut - 0.49998) < 1e-5);
  assert.ok(Math.abs(at80.cond - 1.0955067) < 1e-6);
  const boundary = preconditioning(0.002, publishedSigmas);
  assert.is(boundary.cSkip, 1);
  assert.is(boundary.cOut, 0);
});

test('a configuration that cannot be built is named', () => {
  const base: NcsnppConfig = { ...ncsnppCifar10, nf: 16 };
  const refuses = (config: NcsnppConfig, pattern: RegExp) =>
    assert.throws(
      () => ncsnppPlan(config),
      (error: unknown) => error instanceof InputError && pattern.test(error.message),
    );
  refuses({ ...base, image_size: 30 }, /side of 30 cannot be halved 2 times/);
  refuses({ ...base, patch_size: 5 }, /patch_size 5 does not divide image_size 32/);
  refuses({ ...base, nf: 18 }, /18 channels do not divide into 4 groups/);
  refuses({ ...base, ch_mult: [] }, /ch_mult/);
  refuses({ ...base, num_res_blocks: 0 }, /num_res_blocks must be a positive integer, got 0/);
  assert.throws(
    () => wideResNetShapes({ depth: 12, widen_factor: 1 } as WideResNetConfig),
    (error: unknown) => error instanceof InputError && /depth must be 6n \+ 4, got 12/.test(error.message),
  );
});

test('a checkpoint that does not fit is named with both shapes', async () => {
  const device = await testDevice();
  const shapes = new Map([
    ['a.kernel', [3, 3, 4, 8]],
    ['b', [8]],
  ]);
  const tensors: Record<string, number[]> = { 'a.kernel': [3, 3, 4, 7], c: [2] };
  const source: TensorSource = {
    label: 'x.safetensors',
    names: Object.keys(tensors),
    shape: (name) => tensors[name] as number[],
    floats: (name) => new Float32Array((tensors[name] as number[]).reduce((p, q) => p * q, 1)),
  };
  assert.throws(
    () => bindParameters(device, shapes, source),
    (error: unknown) =>
      error instanceof InputError &&
      error.message ===
        'x.safetensors: does not fit the network: a.kernel is [3,3,4,7], the network wants [3,3,4,8]; b [8] is missing; c [2] is not used',
  );
});

test('an image of another size is refused with both shapes', async () => {
  const device = await testDevice();
  const fixture = loadFixture('nets/ncsnpp-patch');
  const model = ConsistencyModel.load(
    device,
    JSON.parse(fixture.metadata.config as string),
    parametersOf(fixture),
  );
  const x = device.zeros([1, 32, 32, 1]);
  assert.throws(
    () => device.scope(() => model.denoise(x, 80)),
    (error: unknown) =>
      error instanceof ShapeError && error.message === 'ncsnpp: x is [1,32,32,1], wants [N,28,28,1]',
  );
  assert.throws(() => model.denoise(x, 0), /sigma must be positive, got 0/);
  x.dispose();
  model.dispose();
});

test.run();
