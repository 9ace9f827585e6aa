import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import { keyOf, philox4x32, uniformOf } from '../../src/engine/philox.ts';
import { advance } from '../../src/engine/random.ts';
import { dropout } from '../../src/kernels/dropout.ts';
import { testDevice } from '../support.ts';

const test = suite('dropout');

test('the mask is the counter’s, the gradient has the same, each replay of a step another', async () => {
  const device = await testDevice();
  const [rows, length, rate, seed, purpose] = [3, 10, 0.3, 5e9 + 7, 42];
  const values = Array.from({ length: rows * length }, (_, i) => i + 1);
  const x = device.tensor(values, [rows, length]);
  const step = device.tensor([4], [1], 'u32');
  const program = device.record('dropout', () => {
    const { output, pullback } = vjp((u) => dropout(u, { rate, seed, purpose, step }), [x]);
    const [dx] = pullback();
    const again = dropout(x, { rate, seed, purpose, step });
    advance(step);
    return [output, dx!, again];
  });
  for (const t of [4, 5]) {
    const [y, dx, again] = await Promise.all(program.run().map((o) => o.floats()));
    const keep = values.map((_, i) => {
      const e = i % length;
      const words = philox4x32([Math.floor(e / 4), Math.floor(i / length), purpose, t], keyOf(seed));
      return uniformOf(words[e % 4]!) >= rate;
    });
    const factor = Math.fround(1 / (1 - rate));
    const want = values.map((v, i) => (keep[i] ? Math.fround(v * factor) : 0));
    assert.equal([...y!], want);
    assert.equal([...again!], want);
    assert.equal(
      [...dx!],
      keep.map((k) => (k ? factor : 0)),
    );
  }
  program.dispose();
  x.dispose();
  step.dispose();
});

test('a share of `rate` is dropped', async () => {
  const device = await testDevice();
  const x = device.full([4, 4096], 1);
  const step = device.zeros([1], 'u32');
  const y = device.scope(() => dropout(x, { rate: 0.13, seed: 1, purpose: 6, step }));
  const kept = (await y.floats()).filter((v) => v > 0).length / y.size;
  // Four standard deviations of 16,384 draws are 0.0105.
  assert.ok(Math.abs(kept - 0.87) < 0.0105, `${kept}`);
  assert.throws(() => dropout(x, { rate: 1, seed: 1, purpose: 6, step }), /rate must be in \[0, 1\), got 1/);
  for (const t of [x, y, step]) t.dispose();
});

test.run();
