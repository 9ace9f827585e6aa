import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { valueAndGrad } from '../../src/engine/autograd.ts';
import { InputError, ShapeError } from '../../src/engine/errors.ts';
import {
  type CrossEntropyVariant,
  checkLabels,
  chooseCrossEntropyKernel,
  crossEntropy,
} from '../../src/kernels/cross-entropy.ts';
import { assertClose, checkOp, testDevice } from '../support.ts';

for (const variant of ['registers', 'workgroup'] as CrossEntropyVariant[]) {
  checkOp('cross-entropy', {
    run: ({ logits, labels }, { smoothing }) => crossEntropy(logits!, labels!, { smoothing, variant }),
    // One class: nothing depends on the logits; "confident" is nearly piecewise linear.
    finiteDifferences: false,
  });
}

const test = suite('cross-entropy room');

test('a label that is not a class is loud', async () => {
  const device = await testDevice();
  const logits = device.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
  const labels = device.tensor([1, 3], [2], 'u32');
  for (const variant of ['registers', 'workgroup'] as CrossEntropyVariant[]) {
    const { value, gradients } = valueAndGrad((x) => crossEntropy(x, labels, { variant }), [logits]);
    assert.equal([...(await value.floats())].map(Number.isNaN), [false, true]);
    assert.equal([...(await gradients[0]!.floats())].map(Number.isNaN), [
      false,
      false,
      false,
      true,
      true,
      true,
    ]);
  }
});

test('a class of logit -∞ counts for nothing', async () => {
  const device = await testDevice();
  for (const variant of ['registers', 'workgroup'] as const) {
    const loss = device.scope(() =>
      crossEntropy(device.tensor([0, -Infinity, 0], [1, 3]), device.tensor([0], [1], 'u32'), { variant }),
    );
    assertClose(await loss.floats(), [Math.log(2)], 1e-6, variant);
    loss.dispose();
  }
});

test('labels from the host are checked', () => {
  assert.equal(checkLabels([0, 9], 10), Uint32Array.of(0, 9));
  for (const bad of [-1, 10, 0.5, Number.NaN]) {
    assert.throws(
      () => checkLabels([3, bad], 10),
      (e: Error) => e instanceof InputError && e.message.includes(`label 1 is ${bad}`),
    );
  }
});

test('mistakes are named', async () => {
  const device = await testDevice();
  const logits = device.zeros([4, 10]);
  const labels = device.zeros([4], 'u32');
  const fails = (f: () => unknown, pattern: RegExp) =>
    assert.throws(f, (e: Error) => e instanceof ShapeError && pattern.test(e.message));
  fails(() => crossEntropy(device.zeros([10]), labels), /logits \[10\] is not \[N,C\]/);
  fails(() => crossEntropy(logits, device.zeros([4])), /labels are f32, not u32/);
  fails(() => crossEntropy(logits, device.zeros([3], 'u32')), /labels \[3\] is not \[4\]/);
  fails(() => crossEntropy(logits, labels, { smoothing: 1.5 }), /smoothing 1.5 is outside 0..1/);
});

test('choice', () => {
  assert.equal(chooseCrossEntropyKernel({ classes: 10 }, { cpu: false }), {
    variant: 'registers',
    threads: 0,
  });
  assert.equal(chooseCrossEntropyKernel({ classes: 1000 }, { cpu: false }), {
    variant: 'workgroup',
    threads: 256,
  });
  assert.equal(chooseCrossEntropyKernel({ classes: 1000 }, { cpu: true }), {
    variant: 'registers',
    threads: 0,
  });
});

test.run();
