import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Tensor } from '../../src/engine/tensor.ts';
import * as elementwise from '../../src/kernels/elementwise.ts';
import { checkOp, testDevice } from '../support.ts';

const functions: Readonly<Record<string, unknown>> = elementwise;

checkOp('elementwise', {
  run: ({ x }, { function: name, low, high, scale, shift }) => {
    if (name === 'clamp') return elementwise.clamp(x!, low, high);
    if (name === 'affine') return elementwise.affine(x!, scale, shift);
    return (functions[name] as (x: Tensor) => Tensor)(x!);
  },
  // Kinks of abs, relu and clamp: a step across one is not a derivative.
  finiteDifferences: false,
});

test('log and exp of what has none are NaN, as in PyTorch', async () => {
  const device = await testDevice();
  const { NaN: nan, POSITIVE_INFINITY: infinity } = Number;
  const x = device.tensor([nan, -1, -infinity, 0, infinity]);
  const [log, exp] = [elementwise.log(x), elementwise.exp(x)];
  const values = await log.floats();
  assert.ok(values.subarray(0, 3).every(Number.isNaN), String(values));
  // SwiftShader's logarithm of 0 and of infinity are those of the smallest and largest normal numbers.
  assert.ok((values[3] as number) < -85 && (values[4] as number) > 85, String(values));
  const found = await exp.floats();
  assert.ok(Number.isNaN(found[0]));
  assert.equal([...found.subarray(2)], [0, 1, infinity]);
  for (const tensor of [x, log, exp]) tensor.dispose();
});

test.run();
