/** The examples run as they stand, and leave nothing on the device. */
import { mkdirSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const test = suite('examples');

test('own classifier', async () => {
  mkdirSync('out', { recursive: true });
  const { losses, clean, robust, left } = await import('../examples/own-classifier.ts');
  assert.ok((losses.at(-1) as number) < 0.5 * (losses[0] as number), `loss ${losses[0]} -> ${losses.at(-1)}`);
  assert.ok(clean > 0.5 && robust < clean - 0.2, `${clean}, ${robust}`);
  assert.is(left, 0);
});

test('own defence', async () => {
  const { summary, left } = await import('../examples/own-defence.ts');
  const { none, pgd, 'pgd@classifier': transfer } = summary.attacks;
  assert.is(pgd?.knowledge, 'adaptive');
  assert.is(transfer?.knowledge, 'transfer');
  assert.ok((pgd?.robust as number) < (none?.robust as number), 'it is attacked');
  assert.is(summary.evaluations, 3);
  assert.is(left, 0);
});

test('own attack', async () => {
  const { broken, left } = await import('../examples/own-attack.ts');
  assert.equal(Object.keys(broken), ['below-mean', 'below-mean@unroll-short:iterations=4']);
  for (const found of Object.values(broken)) assert.is(found.length, 2);
  assert.is(left, 0);
});

test.run();
