/** The unattended read-out: its order, its budget, and that a part's failure costs only that part. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Outcome, partsOf, runParts } from '../../bench/readout.ts';

const titles = (software: boolean) => partsOf('x', software).map(({ title }) => title);

test('what matters most comes first; a software driver is not disturbed by threads of peers', () => {
  assert.equal(titles(false).slice(0, 2), ['kernels', 'networks']);
  assert.is(titles(true).includes('kernels, f16'), false);
  const only = (software: boolean) => {
    const [first] = partsOf('x', software);
    return first?.args[first.args.indexOf('--only') + 1];
  };
  assert.equal([only(false), only(true)], ['torch', 'tfjs,jax-js']);
  const files = partsOf('x', false).flatMap(({ json }) => json ?? []);
  assert.is(new Set(files).size, files.length, 'no part writes over another');
});

test('each part has its share of what is left, and one that fails or is stopped costs the others nothing', async () => {
  let clock = 0;
  const given: number[] = [];
  const ends: (number | string)[] = ['stopped', 1, 'SIGSEGV'];
  const start = async (_: unknown, seconds: number): Promise<Outcome> => {
    given.push(seconds);
    clock += seconds;
    return { end: ends.shift() ?? 0, output: '', errors: 'a step\nRangeError: 3 | 4\n    at main\n' };
  };
  const part = { title: 'p', args: [], share: 0.5 };
  const rows = await runParts(
    Array.from({ length: 8 }, () => part),
    100,
    start,
    () => clock,
  );
  assert.equal(given, [50, 25, 12.5, 6.25, 3.125, 1.5625]);
  assert.equal(
    rows.map(({ result }) => result),
    [
      'stopped after 50 s',
      'failed after 25 s: RangeError: 3 / 4',
      'failed after 13 s: SIGSEGV',
      '6 s',
      '3 s',
      '2 s',
      'left out: no time left',
      'left out: no time left',
    ],
  );
});

test.run();
