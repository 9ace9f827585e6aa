/** Two evaluations compared: every run counts, and what does not belong together is not paired. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { compare } from '../../src/eval/metrics.ts';
import type { EvaluationConfig, EvaluationRecord } from '../../src/eval/store.ts';
import { pairedTable } from '../../src/eval/tables.ts';
import { mcnemarExact } from '../../src/report/statistics.ts';
import { configOf, kind, record } from './synthetic.ts';

const test = suite('paired evaluations');
const attacks = { none: kind('none'), a: kind('iterative') };

/** Right without an attack; under `a` right in the runs that the pattern of each image marks by 1. */
function evaluation(patterns: readonly string[], more: Partial<EvaluationConfig> = {}) {
  const images = patterns.map((_, i) => i);
  const runs = patterns[0]?.length as number;
  const records = images.flatMap((i): EvaluationRecord[] => [
    record(i, 'none', [1]),
    ...[...(patterns[i] as string)].map((c, run) => record(i, 'a', [Number(c)], { run })),
  ]);
  return { config: { ...configOf(images, attacks), runs, ...more }, records };
}

test('each attack and all of them, over every run', () => {
  // Image 0 is lost in the second run alone, image 2 in two runs against one.
  const first = evaluation(['111', '111', '011', '000']);
  const second = evaluation(['101', '111', '001', '000']);
  const { refusal, tests } = compare(first, second);
  assert.is(refusal, null);
  const same = { images: 4, runs: 1, firstBetter: 0, secondBetter: 0, p: 1, differences: [] };
  const under = { images: 4, runs: 3, firstBetter: 2, secondBetter: 0, p: 0.5, differences: [] };
  assert.equal(tests, [
    { attack: 'none', ...same },
    { attack: 'a', ...under },
    { attack: 'all shared attacks', ...under },
  ]);
});

test('of one run it is McNemar’s test; runs that one lacks do not count', () => {
  const ten = (c: string, n: number) => [...c.repeat(n), ...'1'.repeat(10 - n)];
  const first = evaluation(ten('0', 1));
  const second = evaluation(ten('0', 9).toReversed());
  const a = compare(first, second).tests[1];
  assert.is(a?.firstBetter, 9);
  assert.is(a?.secondBetter, 1);
  assert.is(a?.p, mcnemarExact(9, 1));
  const three = evaluation(ten('0', 1).map((c) => `${c}00`));
  const { tests } = compare(three, first);
  assert.is(tests[1]?.runs, 1);
  assert.is(tests[1]?.firstBetter, 0);
  assert.equal(tests[1]?.differences, ['runs 3 and 1']);
});

test('other data, norms or radii are not paired; other classifiers and settings are named', () => {
  const one = evaluation(['1', '0']);
  const refusal = (more: Partial<EvaluationConfig>) => compare(one, evaluation(['1', '0'], more)).refusal;
  assert.is(refusal({ dataset: 'cifar10' }), 'data sets fashion-mnist and cifar10');
  assert.is(refusal({ norm: 'L2' }), 'norms Linf and L2');
  assert.is(refusal({ eps: 8 / 255 }), 'eps 16/255 and 8/255');
  assert.is(refusal({ images: [7, 8] }), 'no image in both');
  assert.equal(compare(one, evaluation(['1', '0'], { norm: 'L2' })).tests, []);

  const other = evaluation(['1', '0'], {
    classifier: { name: 'resnet', sha256: 'b' },
    attacks: { ...attacks, a: { ...kind('iterative', 'transfer'), settings: { steps: 200 } } },
  });
  assert.equal(
    compare(one, other).tests.map((t) => t.differences.join('; ')),
    [
      'classifier wrn and resnet',
      'classifier wrn and resnet; surface classifier (adaptive) and classifier (transfer); steps not set and 200',
      'classifier wrn and resnet; a differs',
    ],
  );
  const retrained = evaluation(['1', '0'], { classifier: { name: 'wrn', sha256: 'c' } });
  assert.equal(compare(one, retrained).tests[0]?.differences, ['classifier wrn with other weights']);

  const { rows } = pairedTable([
    { first: 'x', second: 'y', ...compare(one, other) },
    { first: 'x', second: 'z', ...compare(one, evaluation(['1', '0'], { eps: 8 / 255 })) },
  ]);
  assert.is(rows.length, 4);
  assert.match(rows[1]?.at(-1) as string, /^classifier wrn and resnet; surface/);
  assert.equal(rows[3], ['x', 'z', '', '', '', '', '', '', 'not paired: eps 16/255 and 8/255']);
});

test.run();
