/** The losses and their gradients against the published code's (reference/attacks.py). */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { attackLoss, type LossName } from '../../src/attacks/losses.ts';
import { vjp } from '../../src/engine/autograd.ts';
import { InputError } from '../../src/engine/errors.ts';
import { assertClose, loadFixture, testDevice } from '../support.ts';

const test = suite('attack losses');

for (const name of ['ce', 'margin', 'dlr', 'difference'] as LossName[]) {
  for (const targeted of name === 'difference' ? [true] : [false, true]) {
    test(`${name}${targeted ? ', targeted' : ''}: value and gradient`, async () => {
      const device = await testDevice();
      const fixture = loadFixture('attacks/fashion-mnist');
      const { data, shape } = fixture.get('logits');
      const z = device.tensor(data, shape);
      const labels = device.tensor(fixture.get('logits.labels').data, [12], 'u32');
      const targets = device.tensor(fixture.get('logits.targets').data, [12], 'u32');
      const [value, gradient] = device.scope(() => {
        const { output, pullback } = vjp((u) => attackLoss(name, targeted, 10)(u, labels, targets), [z]);
        return [output, ...pullback()] as const;
      });
      const key = `loss.${name}${targeted ? '-targeted' : ''}`;
      assertClose(await value.floats(), fixture.get(key).data, 2e-6, 'loss');
      assertClose(
        await (gradient as typeof value).floats(),
        fixture.get(`${key}.gradient`).data,
        1e-5,
        'gradient',
      );
      for (const t of [z, labels, targets, value, gradient as typeof value]) t.dispose();
    });
  }
}

test('a loss that the classifier is too small for is refused', () => {
  const refuses = (run: () => unknown, pattern: RegExp) =>
    assert.throws(run, (error: Error) => error instanceof InputError && pattern.test(error.message));
  refuses(
    () => attackLoss('dlr', false, 2),
    /^the dlr loss needs 3 classes, the classifier has 2; take the margin or ce loss/,
  );
  refuses(
    () => attackLoss('dlr', true, 3),
    /^the targeted dlr loss needs 4 classes, the classifier has 3; take the margin/,
  );
  refuses(() => attackLoss('difference', false, 10), /make the attack targeted/);
  refuses(() => attackLoss('nll' as LossName, false, 10), /"nll" is not known; there are ce, margin/);
});

test.run();
