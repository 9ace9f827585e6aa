import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  formatProportion,
  mcnemar,
  mcnemarExact,
  mean,
  median,
  quantile,
  std,
  wilson,
} from '../../src/report/statistics.ts';

const near = (a: number, b: number, tolerance = 1e-9) =>
  assert.ok(Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(b)), `${a} is not ${b}`);

test('Wilson intervals', () => {
  // scipy.stats.binomtest(k, n).proportion_ci(method='wilson')
  const known = [
    [14, 16, 0.639771727342413, 0.9650225122567595],
    [0, 10, 0, 0.27753279986288926],
    [10, 10, 0.722467200137111, 1],
    [50, 100, 0.4038315303659956, 0.5961684696340044],
  ] as const;
  for (const [k, n, low, high] of known) {
    const interval = wilson(k, n);
    near(interval.low, low, 1e-12);
    near(interval.high, high, 1e-12);
  }
  assert.is(formatProportion(14, 16), '87.5 % [64.0, 96.5]');
  assert.is(formatProportion(16, 16), '100.0 % [80.6, 100.0]');
  for (const [k, n] of [
    [1, 0],
    [3, 2],
    [-1, 2],
    [0.5, 2],
  ] as const)
    assert.throws(() => wilson(k, n), /proportion/);
});

test('McNemar, exact', () => {
  near(mcnemarExact(0, 0), 1);
  near(mcnemarExact(5, 5), 1);
  near(mcnemarExact(0, 6), 0.03125);
  near(mcnemarExact(1, 9), 0.021484375);
  // Sums of binomial coefficients in exact fractions.
  near(mcnemarExact(12, 31), 0.005401572654591291);
  near(mcnemarExact(900, 1100), 8.457089535503927e-6);
  const first = [true, true, false, true, true, true, true, true];
  const second = [true, false, true, false, false, false, false, false];
  assert.equal(mcnemar(first, second), { onlyFirst: 6, onlySecond: 1, p: mcnemarExact(6, 1) });
  near(mcnemarExact(6, 1), 0.125);
  assert.throws(() => mcnemar([true], []), /pairs/);
});

test('summaries', () => {
  const values = Float32Array.of(4, 1, 3, 2, 10);
  near(mean(values), 4);
  near(std(values), Math.sqrt(12.5));
  near(median(values), 3);
  near(median([1, 2, 3, 4]), 2.5);
  near(quantile(values, 0.9), 7.6);
  assert.equal([quantile(values, 0), quantile(values, 1)], [1, 10]);
  assert.equal([mean([]), std([1]), median([])], [Number.NaN, Number.NaN, Number.NaN]);
  assert.throws(() => quantile([1], 2), /\[0, 1\]/);
});

test.run();
