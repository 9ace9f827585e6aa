import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { purposes } from '../../src/engine/random.ts';
import { karrasLevels } from '../../src/nets/consistency.ts';
import { Batches } from '../../src/train/batches.ts';
import { beta, normals, permutation, uniforms } from '../../src/train/draws.ts';
import {
  averageWeight,
  consistencyLevels,
  doublingLevels,
  ectLower,
  erf,
  learningRate,
  logNormalPairs,
  targetRate,
} from '../../src/train/schedules.ts';
import { assertClose } from '../support.ts';

const test = suite('schedules and batches');

test('learning rate: warm-up, constant, cosine', () => {
  const cosine = { lr: 0.4, schedule: 'cosine', warmup: 4, steps: 104 };
  assert.equal(
    [0, 1, 3].map((t) => learningRate(cosine, t)),
    [0.1, 0.2, 0.4],
  );
  assertClose(
    [4, 54, 104].map((t) => learningRate(cosine, t)),
    [0.4, 0.2, 0],
    1e-12,
    'cosine',
  );
  assert.is(learningRate({ ...cosine, schedule: 'constant' }, 90), 0.4);
  assert.throws(() => learningRate({ ...cosine, schedule: 'step' }, 90), /there is no "step"/);
});

test('an average begins with the first value, and forgets half of it within a twentieth of the updates', () => {
  assert.is(averageWeight(0.9999, 0, 0.05), 1);
  let left = 1;
  for (let t = 1000; t < 1050; t++) left *= 1 - averageWeight(0.9999, t, 0.05);
  assert.ok(Math.abs(left - 0.5) < 0.02, `${left}`);
  assert.ok(Math.abs(averageWeight(0.99, 2000, 0.05) - 0.01) < 1e-12, 'later the rate itself');
  assert.is(averageWeight(0.5, 1, 0), 0.5, 'without a ramp-up from the first update on');
});

test('N(k) and mu(k) of consistency training', () => {
  // The ends of the published schedules: s0 2, s1 150 and 200; and the middle by hand: √(½(151² − 4) + 4) = 106.78.
  assert.equal(
    [0, 400, 800].map((k) => consistencyLevels(k, 800, 2, 150)),
    [2, 107, 151],
  );
  assert.is(consistencyLevels(800, 800, 2, 200), 201);
  assert.is(consistencyLevels(900, 800, 2, 150), 151, 'after the end');
  // μ(0) = μ0^s0 with N − 1 = 1, and near 1 at the end.
  assertClose([targetRate(2, 2, 0.9), targetRate(151, 2, 0.9)], [0.81, 0.9 ** (2 / 150)], 1e-12, 'mu');
  assert.is(targetRate(2, 2, 0), 0);
});

test('the doubling N(k) of iCT', () => {
  // 10 doubles seven times to 1280: eight periods.
  const at = [0, 49, 50, 100, 150, 200, 250, 300, 350, 399, 1000].map((k) =>
    doublingLevels(k, 400, 10, 1280),
  );
  assert.equal(at, [11, 11, 21, 41, 81, 161, 321, 641, 1281, 1281, 1281]);
});

test('Karras levels and their log-normal odds', () => {
  const levels = karrasLevels(18, 0.002, 80);
  // The attack's level of the paper, and its neighbours.
  assertClose(levels.slice(3, 6), [0.05995, 0.13952, 0.29644], 1e-4, 'levels');
  assert.is(levels[17], 80);
  const odds = logNormalPairs(levels, -1.1, 2);
  assert.ok(Math.abs(odds.reduce((a, b) => a + b) - 1) < 1e-12);
  const normal = (a: number, b: number) => {
    let sum = 0;
    for (let i = 0; i < 2000; i++) {
      const u = a + ((i + 0.5) / 2000) * (b - a);
      sum += Math.exp(-0.5 * ((u + 1.1) / 2) ** 2);
    }
    return (sum * (b - a)) / 2000;
  };
  const masses = levels.slice(1).map((t, i) => normal(Math.log(levels[i]!), Math.log(t)));
  const total = masses.reduce((a, b) => a + b);
  assertClose(
    odds,
    masses.map((m) => m / total),
    1e-6,
    'odds',
  );
});

test('erf to the digits of tables', () => {
  const table = [0.1, 0.5, 1, 2, 2.4999, 2.5001, 3, 5];
  const values = [
    0.1124629160182849, 0.5204998778130465, 0.8427007929497149, 0.9953222650189527, 0.9995928, 0.9995932,
    0.9999779095030014, 0.9999999999984626,
  ];
  table.forEach((x, i) => {
    const tolerance = i === 4 || i === 5 ? 1e-6 : 1e-14;
    assert.ok(Math.abs(erf(x) - values[i]!) < tolerance, `erf(${x}) = ${erf(x)}`);
    assert.is(erf(-x), -erf(x));
  });
  assert.ok(Math.abs(erf(2.4999999999) - erf(2.5000000001)) < 1e-11, 'no step where the method changes');
});

test('ECT: far pairs first become near ones', () => {
  assert.is(ectLower(1, 2, 0), 0, '1 - (1 + 8/(1 + e))/2 < 0: the clean image');
  assert.ok(Math.abs(ectLower(1, 256, 0) - (1 - (1 + 8 / (1 + Math.E)) / 256)) < 1e-12);
  const gaps = [3, 4, 5].map((stage) => 80 - ectLower(80, 2, stage));
  assertClose(gaps, [5, 2.5, 1.25], 1e-9, 'halving');
});

test('draws are functions of the counter; moments of Beta and of normals', () => {
  const counter = { seed: 3, purpose: purposes.trainingLevel, step: 9, row: 2 };
  const take = (source: Iterator<number>, n: number) =>
    Array.from({ length: n }, () => source.next().value as number);
  assert.equal(take(uniforms(counter), 9), take(uniforms(counter), 9));
  assert.not.equal(take(uniforms({ ...counter, row: 3 }), 9), take(uniforms(counter), 9));
  const z = take(normals(counter), 4000);
  const mean = z.reduce((a, b) => a + b) / 4000;
  const variance = z.reduce((a, b) => a + (b - mean) ** 2, 0) / 4000;
  assert.ok(Math.abs(mean) < 0.07 && Math.abs(variance - 1) < 0.1, `${mean} ${variance}`);
  const draw = uniforms(counter);
  const b = Array.from({ length: 2000 }, () => beta(0.5, draw));
  const spread = b.reduce((a, x) => a + (x - 0.5) ** 2, 0) / 2000;
  // Beta(a, a) has variance 1/(4(2a + 1)) = 1/8.
  assert.ok(Math.abs(spread - 0.125) < 0.01 && b.every((x) => x >= 0 && x <= 1), `${spread}`);
});

const set = {
  name: 'numbers',
  images: Uint8Array.from({ length: 10 * 12 }, (_, i) => i),
  labels: Array.from({ length: 10 }, (_, i) => i),
  shape: [10, 3, 4, 1] as const,
};

test('every image once an epoch, in another order each, whatever the batch', () => {
  const four = new Batches(set, { batch: 4, seed: 1 });
  const labels = Array.from({ length: 5 }, (_, t) => [...four.at(t).labels]).flat();
  const [first, second] = [labels.slice(0, 10), labels.slice(10)];
  assert.equal([...first].sort(), set.labels);
  assert.equal([...second].sort(), set.labels);
  assert.not.equal(first, second);
  assert.equal([...permutation(1, 0, 10)], first);
  const two = new Batches(set, { batch: 2, seed: 1 });
  assert.equal(Array.from({ length: 10 }, (_, t) => [...two.at(t).labels]).flat(), labels);
  assert.equal(four.at(1), new Batches(set, { batch: 4, seed: 1 }).at(1), 'asked for out of order');
});

test('flip and crop move whole pixels, black comes in', () => {
  const plain = new Batches(set, { batch: 1, seed: 5 });
  const moved = new Batches(set, { batch: 1, seed: 5, flip: true, crop: 1 });
  const seen = new Set<string>();
  for (let t = 0; t < 60; t++) {
    const [a, b] = [plain.at(t), moved.at(t)];
    assert.equal(a.labels, b.labels);
    const at = (x: Float32Array, r: number, c: number) =>
      r < 0 || r > 2 || c < 0 || c > 3 ? 0 : x[r * 4 + c]!;
    const found: string[] = [];
    for (const mirror of [false, true])
      for (const dy of [-1, 0, 1])
        for (const dx of [-1, 0, 1]) {
          const want = Array.from({ length: 12 }, (_, i) => {
            const [r, c] = [Math.floor(i / 4) + dy, (i % 4) + dx];
            return c < 0 || c > 3 ? 0 : at(a.images, r, mirror ? 3 - c : c);
          });
          if (want.every((v, i) => v === b.images[i])) found.push(`${mirror} ${dy} ${dx}`);
        }
    assert.ok(found.length > 0, `batch ${t} is no flip and shift of the image`);
    if (found.length === 1) seen.add(found[0]!);
  }
  assert.ok(seen.size >= 15, `18 ways there are, seen ${seen.size}`);
  assert.throws(
    () => new Batches(set, { batch: 1, seed: 0, crop: 3 }),
    /crop must be an integer of 0 to 2 pixels/,
  );
});

test.run();
