/** LPIPS against PyTorch in float64 on torchvision's networks with synthetic weights: fixtures/nets/lpips.py. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import { InputError } from '../../src/engine/errors.ts';
import { Lpips } from '../../src/nets/lpips.ts';
import type { TensorSource } from '../../src/nets/parameters.ts';
import { assertClose, loadFixture, testDevice } from '../support.ts';
import { syntheticTensor } from './parity.ts';

const test = suite('lpips');
const fixture = loadFixture('nets/lpips');

/** As two files: the backbone with the head that torchvision's has, and the weights of the layers. */
function files(backbone: string): [TensorSource, TensorSource] {
  const vgg = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512];
  const modules = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
  const convolutions =
    backbone === 'vgg16'
      ? vgg.map((to, i): [number, number[]] => [modules[i]!, [to, vgg[i - 1] ?? 3, 3, 3]])
      : ([
          [0, [64, 3, 11, 11]],
          [3, [192, 64, 5, 5]],
          [6, [384, 192, 3, 3]],
          [8, [256, 384, 3, 3]],
          [10, [256, 256, 3, 3]],
        ] as [number, number[]][]);
  const lins = backbone === 'vgg16' ? [64, 128, 256, 512, 512] : [64, 192, 384, 256, 256];
  const source = (label: string, shapes: Map<string, number[]>): TensorSource => ({
    label,
    names: [...shapes.keys()],
    shape: (name) => shapes.get(name) ?? [],
    floats: (name) => syntheticTensor(name, shapes.get(name) ?? []),
  });
  const features = convolutions.flatMap(([module, shape]): [string, number[]][] => [
    [`features.${module}.weight`, shape],
    [`features.${module}.bias`, [shape[0]!]],
  ]);
  return [
    source('backbone.pth', new Map([...features, ['classifier.0.bias', [4]]])),
    source('lin.pth', new Map(lins.map((c, i) => [`lin${i}.model.1.weight`, [1, c, 1, 1]]))),
  ];
}

for (const [name, attributes] of Object.entries(fixture.cases)) {
  const { backbone, size } = attributes as { backbone: string; size: number };
  test(name, async () => {
    const device = await testDevice();
    const before = device.memory().tensors;
    const lpips = Lpips.load(device, files(backbone), { size });
    assert.is(lpips.backbone, backbone);
    const [a, b, dy] = ['a', 'b', 'dy'].map((key) => {
      const { data, shape } = fixture.get(`${name}.${key}`);
      return device.tensor(data, shape);
    }) as [never, never, never];
    const results = device.scope(() => {
      const { output, pullback } = vjp((x, y) => lpips.distance(x, y), [a, b]);
      return [output, ...pullback(dy)];
    });
    const [y, da, db] = await Promise.all(results.map((t) => t.floats()));
    assertClose(y!, fixture.get(`${name}.y`).data, 1e-5, 'distance');
    // Of thirteen convolutions in f32, at images where noise of 3e-6 turns no unit and no maximum.
    assertClose(da!, fixture.get(`${name}.da`).data, 2e-4, 'da');
    assertClose(db!, fixture.get(`${name}.db`).data, 2e-4, 'db');
    for (const t of [...results, lpips, a, b, dy] as { dispose(): void }[]) t.dispose();
    assert.is(device.memory().tensors, before, 'nothing is left behind');
  });
}

test('equal images have distance 0 and a gradient of 0; what is missing is named', async () => {
  const device = await testDevice();
  const lpips = Lpips.load(device, files('alexnet'));
  const x = device.full([1, 35, 35, 3], -1);
  const results = device.scope(() => {
    const { output, pullback } = vjp((u) => lpips.distance(u, x), [x]);
    return [output, ...pullback()];
  });
  for (const t of results) assert.ok((await t.floats()).every((v) => v === 0));
  assert.throws(() => lpips.distance(x, results[0]!), /lpips: images are \[1,35,35,3\] and \[1\]/);
  for (const t of [...results, x, lpips]) t.dispose();
  const [features, lin] = files('alexnet');
  assert.throws(
    () => Lpips.load(device, [features]),
    (e: Error) => e instanceof InputError && /lin0\.model\.1\.weight \[1,64,1,1\] is missing/.test(e.message),
  );
  assert.throws(() => Lpips.load(device, [lin]), /has no features\.0\.weight, so no VGG-16 or AlexNet/);
});

test('images too small for the backbone are refused with the size that it wants; that size does', async () => {
  const device = await testDevice();
  for (const [backbone, least] of [
    ['vgg16', 16],
    ['alexnet', 31],
  ] as const) {
    const [small, enough] = [least - 1, least].map((side) => device.full([1, side, side, 1], 0.5));
    for (const size of [0, least - 1]) {
      const lpips = Lpips.load(device, files(backbone), { size });
      const message = `lpips: ${backbone} wants images of at least ${least} x ${least}, lpips_size=${size} gives it ${least - 1} x ${least - 1}; set lpips_size=${least} or more (published: 224)`;
      assert.throws(
        () => device.scope(() => lpips.distance(small!, small!)),
        (e: Error) => e instanceof InputError && e.message === message,
      );
      lpips.dispose();
    }
    const lpips = Lpips.load(device, files(backbone));
    const value = device.scope(() => lpips.distance(enough!, enough!));
    assert.equal([...(await value.floats())], [0]);
    for (const t of [small, enough, value, lpips]) t!.dispose();
  }
});

test.run();
