/** The harness on the shipped classifier and a few images: what it measures, and that nothing but the images matters. */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Apgd } from '../../src/attacks/apgd.ts';
import type { Attack } from '../../src/attacks/attack.ts';
import { AutoAttack } from '../../src/attacks/autoattack.ts';
import { Noise } from '../../src/attacks/noise.ts';
import { Pgd } from '../../src/attacks/pgd.ts';
import { Square } from '../../src/attacks/square.ts';
import type { Target } from '../../src/attacks/target.ts';
import { bitDepth, bitDepthDefence } from '../../src/defences/bits.ts';
import { undefended } from '../../src/defences/none.ts';
import { InputError } from '../../src/engine/errors.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import {
  type AttackSettings,
  attackConfig,
  type PlannedAttack,
  planAttacks,
  registerAttack,
  splitAttacks,
} from '../../src/eval/attacks.ts';
import { fooledBy } from '../../src/eval/curves.ts';
import { checkClassifier, checkPixelRange } from '../../src/eval/guards.ts';
import { summarise } from '../../src/eval/metrics.ts';
import { Replay } from '../../src/eval/replay.ts';
import {
  attackImages,
  batchOf,
  type EvaluationImages,
  type EvaluationPlan,
  evaluationConfig,
  runEvaluation,
} from '../../src/eval/run.ts';
import { attackSeed, judgeSeed } from '../../src/eval/seeds.ts';
import { MemoryStore, readAdversarial, readEvaluation, Store } from '../../src/eval/store.ts';
import { type Cell, robustBenchEntry, robustnessTable } from '../../src/eval/tables.ts';
import { directionalErrors, verifyEvaluation } from '../../src/eval/verify.ts';
import { affine } from '../../src/kernels/elementwise.ts';
import { softmax } from '../../src/kernels/softmax.ts';
import { csvTable, escapeLatex, latexTable, markdownTable } from '../../src/report/table.ts';
import { fashion } from '../attacks/fashion.ts';
import { configOf, kind, record, writeFolder } from './synthetic.ts';

const test = suite('evaluation');
let folder = '';
test.before(() => {
  folder = mkdtempSync(join(tmpdir(), 'cmap-eval-'));
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

const settings: AttackSettings = {
  norm: 'Linf',
  eps: 16 / 255,
  steps: 3,
  restarts: 1,
  queries: 20,
  eot: 1,
};

const refused = (f: () => unknown, pattern: RegExp) =>
  assert.throws(f, (error: Error) => {
    assert.instance(error, InputError);
    assert.match(error.message, pattern);
    assert.not.match(error.message, /\n/);
    return true;
  });

test('metrics by their definitions', () => {
  // Two judgements each; image 2 is wrong from the start, image 0 falls to a in one of two, image 1 to b in both.
  const records = [
    ...[record(0, 'none', [1, 1]), record(1, 'none', [1, 1]), record(2, 'none', [0, 0])],
    ...[record(3, 'none', [1, 1])],
    ...[record(0, 'a', [0, 1]), record(1, 'a', [1, 1]), record(2, 'a', [1, 1]), record(3, 'a', [1, 1])],
    ...[record(0, 'b', [1, 1]), record(1, 'b', [2, 2]), record(2, 'b', [0, 0]), record(3, 'b', [1, 1])],
  ];
  const attacks = { none: kind('none'), a: kind('iterative'), b: kind('iterative', 'transfer') };
  const s = summarise(configOf([0, 1, 2, 3], attacks, 2), records);
  assert.is(s.clean, 0.75);
  assert.is(s.standard, 0.75);
  assert.is(s.attacks.a?.robust, 3.5 / 4);
  assert.is(s.attacks.a?.worst.value, 3 / 4);
  assert.is(s.attacks.a?.majority.value, 3 / 4, 'of a tie the lowest label counts');
  assert.is(s.attacks.b?.robust, 2 / 4);
  assert.is(s.attacks.b?.success?.value, 1 / 3, 'of the three that were right');
  assert.is(s.robust, (0.5 + 0 + 0 + 1) / 4, 'mean of minima');
  assert.is(s.worst.value, 1 / 4);
  assert.is(s.adaptive?.value, (0.5 + 1 + 0 + 1) / 4);
  assert.is(s.transfer?.value, (1 + 0 + 0 + 1) / 4);
  assert.ok(s.robustInterval[0] < s.robust && s.robust < s.robustInterval[1]);
  assert.throws(() => summarise(configOf([0, 9], attacks, 2), records), /no record of image 9 under/);

  refused(() => robustBenchEntry(s, 'DIR'), /DIR: .* evaluate with --attack autoattack/);

  const flags = (summary: typeof s) =>
    (robustnessTable([summary]).rows[0] as Cell[])
      .slice(-4)
      .map((cell) => typeof cell === 'object' && cell.transfer);
  assert.equal(flags(s), [false, true, false, false], 'one attack knows the defence');
  const { a: _, ...others } = s.attacks;
  assert.equal(flags({ ...s, attacks: others }).slice(1), [true, true, true], 'none does');
  const only = { ...s, attacks: { ...s.attacks, autoattack: s.attacks.a as (typeof s.attacks)[string] } };
  const unreliable = (more: Partial<typeof s>) => robustBenchEntry({ ...only, ...more }, 'DIR').unreliable;
  assert.is(unreliable({ defence: 'none', count: 10_000 }), false);
  assert.is(unreliable({ defence: 'none' }), true);
  assert.is(unreliable({ defence: 'diffpure', count: 10_000 }), true);
});

test('seeds of attacks and judgements never meet, nor those of neighbouring evaluations', () => {
  assert.equal([attackSeed(0, 2), judgeSeed(0, 1, 3)], [2, 2 ** 40 + 2 ** 20 + 3]);
  const seen = new Set<number>();
  let count = 0;
  for (const seed of [...Array(20).keys(), 1234, 2 ** 40 - 1])
    for (let run = 0; run < 5; run++) {
      seen.add(attackSeed(seed, run));
      for (let e = 0; e < 10; e++) seen.add(judgeSeed(seed, run, e));
      count += 11;
    }
  assert.is(seen.size, count);
  assert.ok([...seen].every((seed) => Number.isSafeInteger(seed) && seed >= 0 && seed < 2 ** 41));
});

test('records of another rule of seeds are not gone on with, and the folder stays as it is', () => {
  const attacks = { none: kind('none'), a: kind('iterative') };
  const config = { ...configOf([0], attacks), seed: 1 };
  const old = record(0, 'none', [1], { seed: 1 });
  const at = join(folder, 'old-seeds');
  mkdirSync(at);
  writeFileSync(join(at, 'config.json'), JSON.stringify(config));
  writeFileSync(join(at, 'records.jsonl'), `${JSON.stringify(old)}\n`);
  const before = readFileSync(join(at, 'config.json'), 'utf8');
  refused(
    () => Store.open(at, { ...config, attacks: { ...attacks, b: kind('iterative') } }, true),
    /old-seeds: image 0 under none was attacked with seed 1, of --seed 1 this version makes \d{9,}; evaluate anew/,
  );
  assert.is(readFileSync(join(at, 'config.json'), 'utf8'), before);
});

test('a folder that another process is writing to is left alone, one whose process is gone is taken', () => {
  const at = join(folder, 'locked');
  const config = configOf([0], { none: kind('none') });
  Store.open(at, config, false).close();
  const lock = join(at, 'lock');
  assert.is(existsSync(lock), false);
  writeFileSync(lock, `${process.ppid}`);
  refused(() => Store.open(at, config, true), /locked: process \d+ is writing to it; wait for it or end it/);
  writeFileSync(lock, `${2 ** 30}`);
  const store = Store.open(at, config, true);
  assert.match(readFileSync(lock, 'utf8'), new RegExp(`^${process.pid} `));
  store.close();
});

test('an image made anew leaves those of its batch where they are', () => {
  const at = join(folder, 'anew');
  const config = configOf([0, 1], { none: kind('none'), a: kind('iterative') });
  const file = 'images/a-r0-000000.safetensors';
  const batch = (values: number[], images: number[]) => ({
    adversarial: { shape: [values.length, 1], data: Float32Array.from(values) },
    images: { shape: [images.length], data: Int32Array.from(images) },
  });
  const of = (image: number, row: number) => record(image, 'a', [1], { file, row });
  const begun = Store.open(at, config, false);
  begun.append(file, batch([0.25, 0.5], [0, 1]), [of(0, 0), of(1, 1)]);
  begun.close();
  const lines = join(at, 'records.jsonl');
  writeFileSync(lines, readFileSync(lines, 'utf8').split('\n').slice(1).join('\n'));
  const again = Store.open(at, config, true);
  again.append(file, batch([0.75], [0]), [of(0, 0)]);
  again.close();
  const { records } = readEvaluation(at);
  assert.equal(
    readAdversarial(at, records).map(([v]) => v),
    [0.5, 0.75],
  );
});

test('a start that fails leaves the records; without images/ they stay, without one file they are made anew', () => {
  const at = join(folder, 'lost');
  const config = configOf([0, 1], { none: kind('none'), a: kind('iterative') });
  const begun = Store.open(at, config, false);
  for (const image of [0, 1]) {
    const file = `images/a-r0-00000${image}.safetensors`;
    const images = { shape: [1], data: Int32Array.of(image) };
    const adversarial = { shape: [1, 1], data: Float32Array.of(image) };
    begun.append(file, { images, adversarial }, [record(image, 'a', [1], { file, row: 0 })]);
  }
  begun.close();
  const open = () => {
    const store = Store.open(at, config, true);
    store.close();
    return [store.lost, [...store.records.values()].map(({ file }) => file !== null)];
  };
  assert.equal(open(), [0, [true, true]]);
  rmSync(join(at, 'images', 'a-r0-000000.safetensors'));
  assert.equal(open(), [1, [true]]);
  rmSync(join(at, 'images'), { recursive: true });
  writeFileSync(join(at, 'lock'), `${process.ppid}`);
  refused(open, /is writing to it/);
  rmSync(join(at, 'lock'));
  assert.equal(open(), [0, [false]]);
  assert.equal(open(), [0, [false]]);
});

test('notes of batches are added up', () => {
  const notes = ['the gradient was zero at a start of 1 of 2 images'];
  const records = [0, 1, 2].flatMap((i) => [record(i, 'none', [1]), record(i, 'a', [1], { notes })]);
  const s = summarise(configOf([0, 1, 2], { none: kind('none'), a: kind('iterative') }), records);
  assert.equal(s.notes, ['a: the gradient was zero at a start of 3 of 3 images']);
});

test('runs are repeated, `none` is not; their spread is reported', () => {
  const records = [
    record(0, 'none', [1]),
    record(1, 'none', [1]),
    ...[0, 1].flatMap((run) => [record(0, 'a', [run === 0 ? 0 : 1], { run }), record(1, 'a', [1], { run })]),
  ];
  const s = summarise(
    { ...configOf([0, 1], { none: kind('none'), a: kind('iterative') }), runs: 2 },
    records,
  );
  assert.is(s.attacks.a?.robust, 0.75);
  assert.ok(Math.abs((s.attacks.a?.std as number) - Math.SQRT1_2 / 2) < 1e-12);
  assert.is(s.attacks.a?.worst.value, 0.5, 'over runs too');
});

test('curves count images fooled so far', () => {
  const hits = (hit: number[]) => record(0, 'a', [1], { trace: { loss: [], hit } });
  assert.equal(fooledBy([hits([0, 1, 0]), hits([0, 0, 0.5]), hits([0])]), [0, 1 / 3, 2 / 3]);
  const atOnce = { ...hits([]), success: true };
  assert.equal(fooledBy([hits([0, 1]), atOnce, hits([])]), [1 / 3, 2 / 3], 'what was misread from the start');
});

test('tables of text', () => {
  assert.is(markdownTable(['a', 'b'], [['1|2', '']]), '| a | b |\n| --- | --- |\n| 1\\|2 |  |');
  assert.is(csvTable(['a', 'b'], [['1,2', 'x"y']]), 'a,b\n"1,2","x""y"');
  assert.is(escapeLatex('50 %_\\'), '50 \\%\\_\\textbackslash{}');
  assert.match(
    latexTable(['a', 'b'], [['x', '1']]),
    /^\\begin{tabular}{lr}\n\\toprule\na & b \\\\\n\\midrule/,
  );
});

test('names of attacks', async () => {
  const { net, dispose } = await fashion(1);
  const plan = (list: string, other: object = {}) =>
    planAttacks(splitAttacks(list), { ...settings, ...other }, bitDepthDefence(net, 3));
  assert.equal(
    plan('pgd,fgsm@classifier,none,pgd').map((a) => [a.id, a.surface, a.knowledge]),
    [
      ['none', '', 'adaptive'],
      ['pgd', 'bpda', 'adaptive'],
      ['fgsm@classifier', 'classifier', 'transfer'],
    ],
  );
  refused(() => plan('pdg'), /attack "pdg" is not known; there are none, fgsm, pgd/);
  refused(() => plan('pgd,,fgsm'), /an empty name/);
  // DLR divides by differences to the third or fourth largest logit.
  const three = { classes: 3, logits: (u: Tensor) => net.logits(u) };
  const few = (list: string) => planAttacks(splitAttacks(list), settings, undefended(three));
  few('pgd,apgd-dlr');
  refused(() => few('pgd,apgd-t'), /targeted dlr loss needs 4 classes, the classifier has 3/);
  refused(() => few('autoattack'), /needs 4 classes/);
  refused(() => plan('pgd@inside'), /no surface "inside"; it has classifier, bpda, derivative/);
  const [, own] = plan('pgd:loss=margin:steps=7:step-size=2/255:restarts=2@bpda');
  assert.equal(own?.settings, {
    ...{ steps: 7, stepSize: 2 / 255, start: 'random', restarts: 2, keep: 'best', loss: 'margin', eot: 1 },
  });
  assert.is(own?.passes, 2 * 8 * 2);
  const step = (list: string, other = {}) => plan(list, other)[1]?.settings.stepSize;
  assert.is(step('pgd:steps=20', { steps: 200, stepSize: 'eps/steps' }), settings.eps / 20);
  assert.is(step('pgd', { steps: 200, stepSize: 'eps/steps' }), settings.eps / 200);
  assert.is(step('pgd:steps=20'), (2.5 * settings.eps) / 20);
  assert.is(plan('pgd', { keep: 'last' })[1]?.settings.keep, 'last');
  assert.is(plan('pgd:restarts=2', { keep: 'last' })[1]?.settings.keep, 'best', 'of several runs');
  assert.is(plan('pgd:direction=sign', { norm: 'L2', eps: 0.5 })[1]?.settings.direction, 'sign');
  refused(() => plan('pgd:direction=sign'), /direction sign is for L2, this attack is for Linf/);
  assert.equal(plan('autoattack:version=custom:attacks=apgd-ce+square')[1]?.settings, {
    ...{ version: 'custom', attacks: ['apgd-ce', 'square'], eot: 1, evaluations: 1 },
  });
  // 100 steps of APGD-CE and, for nine classes, of APGD-T and FAB-T; 5000 queries; six looks.
  assert.is(plan('autoattack')[1]?.passes, 2 * 101 * 10 + 2 * 100 * 9 + 5000 + 6);
  // Five restarts of APGD-CE, APGD-DLR and FAB, which asks for every class.
  assert.is(
    plan('autoattack:version=plus')[1]?.passes,
    2 * 101 * (2 * 5 + 9) + 100 * 5 * 21 + 2 * 100 * 9 + 5000 + 8,
  );
  refused(
    () => plan('pgd:loss=difference'),
    /attack pgd: loss must be one of ce, margin, dlr, got "difference"/,
  );
  refused(() => plan('pgd:queries=3'), /attack pgd has no option "queries"; it has steps, step-size/);
  refused(() => plan('pgd:steps'), /"steps" is not KEY=VALUE/);
  refused(() => plan('pgd:steps=1:steps=2'), /steps is given twice/);
  refused(() => plan('pgd@bpda@bpda'), /more than one @/);
  refused(() => plan('pgd:eot=3'), /eot without effect, surface bpda draws nothing/);
  refused(() => plan('pgd@bpda:k=2'), /surface bpda of the defence bits has no options/);
  refused(() => plan('pgd:target=10'), /target must be a class of 0 to 9, got 10/);
  refused(() => plan('pgd:start=image:restarts=2'), /2 restarts without a random start/);
  refused(() => plan('autoattack:version=custom'), /version custom needs attacks/);
  refused(() => plan('transfer'), /the folder is missing; write transfer:from=DIR/);
  refused(() => plan('square:queries=4000000000'), /queries must be a positive integer to 16777216/);
  refused(() => plan('pgd-l2'), /pgd-l2 is for L2, this evaluation for Linf/);
  refused(() => plan('pgd', { eps: 8 }), /eps must be in \[0, 1\] pixel units, got 8; did you mean 8\/255\?/);
  refused(() => plan('pgd', { steps: 0 }), /steps must be a positive integer, got 0/);
  refused(() => bitDepthDefence(net, 9), /bits must be an integer of 1 to 8, got 9/);
  registerAttack('still', {
    summary: 'nothing',
    kind: 'iterative',
    make: () => ({ name: 'still', norm: 'Linf', eps: 0, run: () => Promise.reject(new Error('not run')) }),
    options: [],
    passes: () => 0,
  });
  assert.is(plan('still')[1]?.surface, 'bpda');
  assert.throws(() => registerAttack('pgd', {} as never), RangeError);
  dispose();
});

test('what costs much goes image by image, but for what runs over whole batches', async () => {
  const { net, x, images, labels, dispose } = await fashion(1);
  const data = { images, labels, ids: [0], shape: x.shape as EvaluationImages['shape'] };
  const defence = { ...undefended(net), passes: 3 };
  const attacks = planAttacks(['fgsm', 'pgd'], { ...settings, steps: 49 }, defence);
  const plan = { data, defence, attacks, seed: 0, runs: 1, evaluations: 2, batch: 8, purified: true };
  const [none, fgsm, pgd] = attacks as [PlannedAttack, PlannedAttack, PlannedAttack];
  // 6, 4 + 6 and 100 + 6 network evaluations.
  const batches = (alone?: number) =>
    [none, fgsm, pgd].map((attack) => batchOf(alone === undefined ? plan : { ...plan, alone }, attack));
  assert.equal(batches(), [8, 8, 8]);
  assert.equal(batches(105), [8, 8, 1]);
  assert.equal(batches(106), [8, 8, 8]);
  assert.equal(batches(5), [1, 1, 1]);
  const whole = { ...pgd, settings: { compat: 'official' } };
  assert.is(batchOf({ ...plan, alone: 5 }, whole), 8);
  dispose();
});

test('without an attack nothing is robust, and nothing there to transfer', () => {
  const at = join(folder, 'unattacked');
  const clean = record(0, 'none', [1], { file: 'images/none.safetensors' });
  const config = configOf([0], { none: kind('none') });
  writeFolder(at, config, [clean]);
  refused(() => new Replay(at, 'Linf', 16 / 255), /holds no attacked images/);
  const { headings, rows } = robustnessTable([summarise(config, [clean])]);
  assert.is(rows[0]?.[headings.indexOf('all attacks')], '');
});

test('an evaluation refuses a plan that its configuration does not tell of, and an attack that leaves its ball', async () => {
  const { device, net, images, labels, dispose } = await fashion(2);
  const defence = undefended(net);
  const far: Attack = {
    name: 'far',
    norm: 'Linf',
    eps: settings.eps,
    run: async (_, u) => ({
      adversarial: u.device.scope(() => affine(u, -1.5, 2)),
      ...{ success: [true, true], loss: [0, 0], trace: [], notes: [], passes: { forward: 0, backward: 0 } },
    }),
  };
  const attacks = planAttacks(['pgd'], settings, defence).map((attack) =>
    attack.kind === 'none' ? attack : { ...attack, make: () => far },
  );
  const data = { images, labels, ids: [0, 1], shape: [2, 28, 28, 1] as const };
  const plan = {
    ...{ data, defence, attacks, seed: 3, runs: 1, evaluations: 1, batch: 2, purified: false },
  };
  const { dataset, classifier, generator } = configOf([], {});
  const config = evaluationConfig(plan, { dataset, classifier, generator, norm: 'Linf', eps: settings.eps });
  assert.equal([config.seed, config.images, Object.keys(config.attacks)], [3, [0, 1], ['none', 'pgd']]);
  const said = (other: object) =>
    runEvaluation(device, plan, new MemoryStore({ ...config, ...other })).then(
      () => '',
      (error) => {
        assert.instance(error, InputError);
        return error.message;
      },
    );
  assert.match(await said({ seed: 0 }), /seed of the configuration: 0, of the plan: 3/);
  assert.match(await said({ attacks: {} }), /attack none of the plan is missing/);
  assert.match(
    await said({}),
    /attack pgd: its image 0 is 2 away in Linf, with pixels in \[0.5, 2\]; allowed are 0.06/,
  );
  dispose();
});

test('the usual mistakes are named', async () => {
  refused(
    () => checkPixelRange('x', Float32Array.of(0, 128, 255)),
    /x: pixels are in \[0\.00, 255\].*divide by 255/,
  );
  refused(() => checkPixelRange('x', Float32Array.of(-1.9, 2)), /look normalised/);
  refused(() => checkPixelRange('x', Float32Array.of(0, 1 / 255)), /divided by 255 twice/);
  refused(() => checkPixelRange('x', Float32Array.of(0, Number.NaN)), /holds NaN/);
  checkPixelRange('x', Float32Array.of(0, 1));
  const { net, x, labels, dispose } = await fashion(32);
  const { classes } = net;
  await checkClassifier('net', net, x, labels);
  const said = async (logits: (u: typeof x) => typeof x) => {
    try {
      await checkClassifier('net', { classes, logits }, x, labels);
    } catch (error) {
      assert.instance(error, InputError);
      return (error as Error).message;
    }
    return 'nothing';
  };
  assert.match(await said((u) => softmax(net.logits(u))), /outputs are probabilities; attacks need logits/);
  // Made for (x − 0.286)/0.353: given x it sees a dark, flat image.
  const normalised = (u: typeof x) => net.logits(affine(u, 0.353, 0.286));
  const message = await said(normalised);
  assert.match(
    message,
    /right on \d+ of 32 images as they are and on \d+ of 32 after .*lacks its normalisation/,
  );
  assert.match(await said((u) => affine(net.logits(u), 1e38 * 1e3)), /logit \d+ of image \d+ is/);
  dispose();
});

test('an undefended net falls, and so does bit depth through BPDA, but not by its own derivative', async () => {
  const count = 4;
  const { device, net, x, images, labels, dispose } = await fashion(count);
  const bits = bitDepthDefence(net, 3);
  const ids = labels.map((_, i) => i);
  const data = { images, labels, ids, shape: [count, 28, 28, 1] as const };
  const large = { ...settings, eps: 0.3, steps: 8 };
  const none = undefended(net);
  for (const [defence, names] of [
    [none, ['pgd']],
    [bits, ['pgd', 'pgd@derivative']],
  ] as const) {
    const attacks = planAttacks(names, { ...large, start: 'image' }, defence);
    const config = configOf(ids, Object.fromEntries(attacks.map((a) => [a.id, attackConfig(a, count)])));
    const at = join(folder, defence.name);
    const { name, settings: own } = defence;
    const store = Store.open(at, { ...config, eps: 0.3, defence: { name, settings: own } }, false);
    const plan: EvaluationPlan = {
      ...{ data, defence, attacks, seed: 0, runs: 1, evaluations: 1, batch: count },
      purified: true,
    };
    const summary = await runEvaluation(device, plan, store);
    store.close();
    assert.is(summary.standard, 1);
    assert.is(summary.attacks.pgd?.robust, 0, `${defence.name} under pgd`);
    assert.is(summary.robust, 0);
    if (defence === bits) {
      assert.is(summary.attacks['pgd@derivative']?.robust, 1, 'a masked gradient finds nothing');
      assert.match(summary.notes.join(), /gradient was zero/);
    }
    const items = await verifyEvaluation(device, {
      folder: at,
      ...readEvaluation(at),
      defence,
      data,
      count: 0,
      noise: 0,
      batch: count,
    });
    const result = (id: string) => items.find((item) => item.id === id)?.result;
    assert.is(result('budget'), 'pass');
    assert.is(result('range'), 'pass');
    assert.is(result('complete'), 'pass');
    assert.is(result('adaptive'), 'pass');
    assert.is(result('budget-sweep'), 'not-tested');
  }
  // The stored images are what was judged: one pixel moved beyond eps is found.
  const { config, records } = readEvaluation(join(folder, 'none'));
  const items = await verifyEvaluation(device, {
    ...{ folder: join(folder, 'none'), config: { ...config, eps: 0.2 }, records, defence: none, data },
    ...{ count: 0, noise: 0, batch: count },
  });
  assert.is(items.find((item) => item.id === 'budget')?.result, 'fail');

  // Finite differences tell the derivative from something else.
  const hooks = { imageIds: ids, batch: count };
  const exact = await directionalErrors(device, net, x, labels, hooks);
  assert.ok(Math.max(...exact.errors) < 0.2, `errors ${exact.errors}`);
  const fake = { classes: net.classes, logits: (u: typeof x) => net.logits(bitDepth(u, 1, 'identity')) };
  const wrong = await directionalErrors(device, fake, x, labels, hooks);
  assert.ok(wrong.errors.filter((e) => e > 0.2).length > wrong.errors.length / 2, `errors ${wrong.errors}`);
  const masked = await directionalErrors(
    device,
    bits.surfaces.derivative?.target as Target,
    x,
    labels,
    hooks,
  );
  assert.is(masked.zeros, count);
  dispose();
});

test('what a random or partial surface misreads is attacked; a success needs half of the draws', async () => {
  const { device, net, x, images, size, dispose } = await fashion(2);
  // Wrong labels: both images are misread from the start.
  const labels = [3, 4];
  const ball = { norm: 'Linf', eps: 8 / 255, seed: 0 } as const;
  const attacks = [
    new Apgd({ ...ball, loss: 'ce', steps: 3 }),
    new Square({ ...ball, queries: 10 }),
    new Noise({ ...ball, points: 10 }),
    new AutoAttack({ ...ball, version: 'custom', attacks: [new Square({ ...ball, queries: 10 })] }),
  ];
  for (const attack of attacks) {
    const moved: boolean[] = [];
    for (const misread of ['left', 'attacked'] as const) {
      const { adversarial, success, trace } = await attack.run(net, x, labels, { misread });
      const points = await adversarial.floats();
      moved.push(points.some((v, k) => v !== images[k]));
      assert.equal(success, [true, true], `${attack.name}, ${misread}`);
      assert.is(
        trace.every(({ loss }) => loss.length > 0),
        misread === 'attacked',
      );
      adversarial.dispose();
    }
    assert.equal(moved, [false, true], attack.name);
  }

  // One draw of four is lucky: no success; the point is kept all the same.
  const lucky = (share: number) => {
    let call = 0;
    const draws = 4;
    const target: Target = {
      classes: 2,
      randomised: true,
      process: async (at) => {
        const wrong = call++ % draws < share * draws;
        const logits = device.tensor(wrong ? [0, 1, 0, 1] : [1, 0, 1, 0], [2, 2]);
        const pullback = async () => device.full(at.shape, 1);
        return { logits, pullback, dispose: () => logits.dispose() };
      },
    };
    return new Pgd({
      ...ball,
      steps: 2,
      stepSize: 0.01,
      randomStart: false,
      keep: 'best',
      eot: { draws },
    }).run(target, x, [0, 0]);
  };
  assert.equal((await lucky(0.25)).success, [false, false]);
  assert.equal((await lucky(0.5)).success, [true, true]);
  assert.ok(size > 0);
  dispose();
});

test('wanted classes: the next, the least, a random one, never the image’s own', async () => {
  const count = 6;
  const { net, x, labels, dispose } = await fashion(count);
  const logits = await net.logits(x).floats();
  const ids = labels.map((_, i) => i);
  const wanted = async (rule: string) => {
    const defence = undefended(net);
    const [, attack] = planAttacks([`pgd:target=${rule}`], { ...settings, steps: 1 }, defence);
    let seen: readonly number[] = [];
    const spy = (attack as PlannedAttack).make(0, [0]) as Attack;
    const make = () => ({
      ...{ name: spy.name, norm: spy.norm, eps: spy.eps },
      run: (...args: Parameters<Attack['run']>) => {
        seen = args[3]?.targets as number[];
        return spy.run(...args);
      },
    });
    const result = await attackImages(
      { defence, batch: count },
      { ...(attack as PlannedAttack), make },
      0,
      [0],
      { ids, labels, x },
    );
    result?.adversarial.dispose();
    return seen;
  };
  const ranked = labels.map((label, i) =>
    [...logits.subarray(i * 10, (i + 1) * 10).entries()]
      .filter(([c]) => c !== label)
      .sort(([, p], [, q]) => q - p)
      .map(([c]) => c),
  );
  assert.equal(
    await wanted('next'),
    ranked.map((order) => order[0]),
  );
  assert.equal(
    await wanted('least'),
    ranked.map((order) => order.at(-1)),
  );
  const random = await wanted('random');
  assert.ok(random.every((c, i) => c !== labels[i] && c >= 0 && c < 10) && new Set(random).size > 1);
  assert.equal(random, await wanted('random'));
  const own = labels[0] as number;
  assert.equal(
    await wanted(String(own)),
    labels.map((label, i) => (label === own ? ranked[i]?.[0] : own)),
  );
  dispose();
});

test('the same records whatever the batch, and again after a torn line', async () => {
  const count = 3;
  const { device, net, images, labels, size, dispose } = await fashion(count);
  const defence = undefended(net);
  const ids = [0, 1, 2];
  const data = { images, labels, ids, shape: [count, 28, 28, 1] as const };
  const attacks = planAttacks(['pgd'], settings, defence);
  const config = configOf(ids, { none: kind('none'), pgd: kind('iterative') });
  const run = async (name: string, batch: number, resume = false) => {
    const store = Store.open(join(folder, name), config, resume);
    const plan = { data, defence, attacks, seed: 0, runs: 1, evaluations: 1, batch, purified: true };
    const summary = await runEvaluation(device, plan, store);
    store.close();
    const { records } = readEvaluation(join(folder, name));
    return { summary, records: records.map(({ cost, file, row, ...rest }) => rest), all: records };
  };
  const together = await run('together', 3);
  const alone = await run('alone', 2);
  // Kernels may be chosen by the size of a batch: sums then differ in their last bits, and nothing else.
  const rounded = (records: typeof alone.records) =>
    records
      .map(({ loss, trace, linf, l2, l1, ...rest }) => ({ ...rest, hits: trace.hit, loss: loss?.toFixed(3) }))
      .sort((a, b) => a.attack.localeCompare(b.attack) || a.image - b.image);
  assert.equal(rounded(alone.records), rounded(together.records));
  const [a, b] = [
    readAdversarial(
      join(folder, 'alone'),
      alone.all.filter((r) => r.attack === 'pgd'),
    ),
    readAdversarial(
      join(folder, 'together'),
      together.all.filter((r) => r.attack === 'pgd'),
    ),
  ];
  let moved = 0;
  for (const [i, image] of a.entries()) moved += image.filter((v, k) => v !== b[i]?.[k]).length;
  // A sign of a gradient near zero may flip.
  assert.ok(moved <= 0.01 * count * size, `${moved} pixels differ`);

  // A kill in the middle of a line costs that line.
  const path = join(folder, 'together', 'records.jsonl');
  const lines = readFileSync(path, 'utf8');
  const cut = lines.split('\n').slice(0, 4).join('\n');
  writeFileSync(path, `${cut}\n{"schema":1,"ima`);
  const again = await run('together', 3, true);
  assert.equal(rounded(again.records), rounded(together.records));
  assert.equal(again.summary.robust, together.summary.robust);

  refused(
    () => Store.open(join(folder, 'together'), config, false),
    /holds an evaluation; go on with it by --resume/,
  );
  refused(
    () => Store.open(join(folder, 'together'), { ...config, eps: 8 / 255 }, true),
    /config\.json: eps was 0\.0627.*, now it is 0\.0313/,
  );
  appendFileSync(path, 'no record\n');
  refused(() => readEvaluation(join(folder, 'together')), /records\.jsonl: line 7 of 7 is not a record/);
  refused(() => readEvaluation(join(folder, 'nothing')), /holds no evaluation: there is no config\.json/);
  dispose();
});

test.run();
