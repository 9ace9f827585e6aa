import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { InputError } from '../../src/engine/errors.ts';
import { gradientControl, guardGradients, Optimiser, updateAverage } from '../../src/kernels/optimiser.ts';
import { assertClose, loadFixture, testDevice } from '../support.ts';

const test = suite('optimisers');
const fixture = loadFixture('train/optimisers');

interface Case {
  kind: 'adam' | 'radam' | 'sgd';
  lr: number;
  limit: number;
  norms: number[];
  rates: number[];
  steps: number;
  weight_decay?: number;
}

for (const [name, attributes] of Object.entries(fixture.cases)) {
  const { kind, lr, limit, norms, rates, steps, weight_decay, ...rest } = attributes as unknown as Case;
  test(`${name}: ${steps} replayed steps like torch.optim, with clipping and averages`, async () => {
    const device = await testDevice();
    const before = device.memory().tensors;
    const names = ['a', 'b'];
    const at = (prefix: string, k: string) => fixture.get(`${prefix}.${k}`);
    const params = names.map((k) => device.tensor(at('start', k).data, at('start', k).shape));
    const gradients = params.map((p) => device.zeros(p.shape));
    const averages = rates.map(() =>
      names.map((k) => device.tensor(at('start', k).data, at('start', k).shape)),
    );
    const weights = device.tensor(rates.map((r) => 1 - r));
    const loss = device.zeros([1]);
    const control = gradientControl(device);
    const optimiser = new Optimiser(device, params, { kind, weightDecay: weight_decay ?? 0, ...rest });
    const program = device.record(name, () => {
      guardGradients(gradients, loss, control, limit);
      optimiser.apply(gradients, control);
      averages.forEach((average, r) => {
        for (const [i, e] of average.entries()) updateAverage(e, params[i]!, weights, r, control);
      });
    });
    const run = (t: number) => {
      gradients.forEach((g, i) => {
        g.write(at('gradients', names[i]!).data.subarray(t * g.size, (t + 1) * g.size));
      });
      optimiser.begin(t + 1, lr * (t < 6 ? 1 : 0.5));
      program.run();
    };
    for (let t = 0; t < steps; t++) {
      run(t);
      if (t === 0 || t === steps - 1)
        assertClose([(await control.floats())[1]!], [norms[t]!], 1e-6, `norm ${t}`);
    }
    const results = await Promise.all(params.map((p) => p.floats()));
    for (const [i, k] of names.entries()) {
      const moved = (end: Float32Array) => end.map((v, j) => v - at('start', k).data[j]!);
      // Twelve roundings of numbers near 1, against moves of a few tenths.
      assertClose(moved(results[i]!), moved(at(name, k).data), 3e-6, `distance of ${k}`);
      for (const [r, rate] of rates.entries())
        assertClose(
          await averages[r]![i]!.floats(),
          at(name, `${k}.average ${rate}`).data,
          1e-6,
          `average ${rate} of ${k}`,
        );
    }

    // A loss that is no number stops everything: this update and those after it.
    loss.write([Number.NaN]);
    run(0);
    loss.write([0]);
    run(1);
    assert.is((await control.floats())[2], 1);
    for (const [i, p] of params.entries()) assert.equal(await p.floats(), results[i]);

    program.dispose();
    optimiser.dispose();
    for (const t of [...params, ...gradients, ...averages.flat(), weights, loss, control]) t.dispose();
    assert.is(device.memory().tensors, before);
  });
}

test('a gradient that is not finite halts; a weight of 1 copies bit for bit', async () => {
  const device = await testDevice();
  const [good, bad] = [device.tensor([1, 2, 3, 4]), device.tensor([1, Number.POSITIVE_INFINITY, 0])];
  const [loss, control] = [device.zeros([1]), gradientControl(device)];
  const average = device.tensor([1e8, 1e8, 1e8, 1e8]);
  const one = device.tensor([1]);
  updateAverage(average, good, one, 0, control);
  assert.equal([...(await average.floats())], [1, 2, 3, 4]);
  const squares = device.scope(() => guardGradients([good, bad], loss, control));
  assert.equal([...(await squares.floats())], [30, Number.POSITIVE_INFINITY]);
  assert.is((await control.floats())[2], 1);
  for (const t of [good, bad, loss, control, average, one, squares]) t.dispose();
});

test('errors name the option', async () => {
  const device = await testDevice();
  const p = device.zeros([2]);
  const wrong = (options: object, message: RegExp) =>
    assert.throws(
      () => new Optimiser(device, [p], options as never),
      (e: Error) => e instanceof InputError && message.test(e.message),
    );
  wrong({ kind: 'lion' }, /there is no "lion"; there are adam, radam, sgd/);
  wrong({ kind: 'sgd', momentum: 1 }, /momentum must be in \[0, 1\), got 1/);
  wrong({ kind: 'sgd', nesterov: true }, /nesterov wants a momentum/);
  wrong({ kind: 'adam', betas: [0.9, -1] }, /betas\[1\] .* got -1/);
  wrong({ kind: 'adam', weightDecay: -1 }, /weightDecay .* got -1/);
  const optimiser = new Optimiser(device, [p], { kind: 'sgd' });
  assert.throws(() => optimiser.begin(1, Number.NaN), /lr must be a number of at least 0, got NaN/);
  optimiser.dispose();
  p.dispose();
});

test.run();
