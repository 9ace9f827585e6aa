/** `cmap eval` and what reads its folder, as a user runs them: killed and resumed, and with wrong input. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { EvaluationSummary } from '../../src/eval/metrics.ts';
import { type EvaluationRecord, isAttacked, readAdversarial, readEvaluation } from '../../src/eval/store.ts';
import { openSafetensors } from '../../src/formats/safetensors.node.ts';
import { root, testDevice } from '../support.ts';
import { commandIn } from './command.ts';

const test = suite('cli eval');
let folder = '';
test.before(() => {
  folder = mkdtempSync(join(tmpdir(), 'cmap-cli-eval-'));
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

const { cmap, refused } = commandIn(() => folder);
const base = ['eval', '--dataset', 'fashion-mnist', '--count', '3', '--steps', '2', '--batch', '1'];

test('bad input', () => {
  refused(
    ['eval', '--out', join(folder, 'none')],
    /--dataset is missing; it is one of cifar10, fashion-mnist/,
  );
  refused(
    ['eval', '--resume', '--out', join(folder, 'none')],
    /--dataset is missing, and .*none does not say it/,
  );
  refused(
    [...base, '--subset', 'paper'],
    /the paper's images are of cifar10 and image-folder, not of fashion-mnist/,
  );
  refused(
    [...base, '--norm', 'L2', '--eps', '128'],
    /eps 128 in L2 is more than 28\.00.*did you mean 128\/255\?/,
  );
  refused([...base, '--eps', '8'], /eps must be in \[0, 1\] pixel units, got 8; did you mean 8\/255\?/);
  refused([...base, '--attack', `transfer:from=${folder}`], /holds no evaluation/);
  const official = ['--defence', 'cmap', '--attack', 'disruption', '--compat', 'official', '--batch', '2'];
  refused(
    [...base, ...official],
    /whole batches of at least 2 .*, and 3 images are in batches of 2; give a --batch/,
  );
  refused([...base, ...official.slice(0, -1), '1'], /3 images are in batches of 1; give a --batch/);
  refused(['eval', '--dataset', 'mnist'], /'mnist' is invalid.*cifar10, fashion-mnist/);
  refused([...base, '--count', '0'], /--count must be at least 1, got 0/);
  refused([...base, '--offset', '999'], /image 1000 is not there; the package holds 1000/);
  refused([...base, '--subset', 'paper', '--offset', '1'], /exclude each other/);
  refused([...base, '--runs', '0'], /--runs must be an integer of 1 to 1048575, got 0/);
  refused([...base, '--attack', 'pgd,'], /an empty name/);
  refused([...base, '--seed', '-1'], /--seed must be an integer of 0 to/);
  refused(['eval', '--dataset', 'cifar10', '--data', join(folder, 'nowhere')], /nowhere/);
  refused(['table', folder], /holds no evaluation/);
  refused(['plot', folder], /holds no evaluation/);
  refused(['verify', folder], /holds no evaluation/);
  refused([...base, '--attack', 'pdg'], /attack "pdg" is not known/);
  refused(
    [...base, '--classifier', 'resnet20'],
    /--classifier resnet20: not among the shipped weights .*--weights/,
  );
  const chain = (defence: string, ...rest: string[]) => [...base, '--defence', defence, ...rest];
  refused(
    chain('diffpure', '--set', 'steps=x'),
    /--set steps=x: "x" is not a number; the default is steps=0/,
  );
  refused(chain('gns', '--set', 'step=4'), /gns has no setting "step"; it has rounds, steps/);
  refused(chain('gdmp', '--set', 't=50', '--set', 't=60'), /--set t=60: t is given twice/);
  refused(chain('adp', '--set', 'sigma'), /--set sigma: not KEY=VALUE/);
  refused(chain('cmap', '--edm'), /--edm is for --defence diffpure, gdmp, adp, gns/);
  refused(chain('none', '--set', 't=1'), /--set is for --defence/);
  refused(chain('none', '--k', '7'), /--k is for --defence cmap; this one is none, which would ignore it/);
  refused(chain('cmap', '--bits', '5'), /--bits is for --defence bits/);
  refused(chain('none', '--generator-weights', 'x'), /--generator-weights is for --defence cmap, diffpure/);
  refused(chain('none', '--compat', 'official'), /--compat is for --attack disruption; none is asked for/);
  refused(chain('gdmp', '--set', 't=0'), /gdmp: t must be an integer of 1 to 1000, got 0/);
  refused(chain('diffpure', '--model', 'fashion-mnist-wrn'), /is a classifier; a score network, an EDM/);
  assert.not(existsSync(join(folder, 'out')), 'nothing was written');
});

test('--net-config is the classifier’s alone', () => {
  const settings = join(folder, 'classifier.json');
  writeFileSync(settings, '{"num_classes": 10}');
  const least = ['--attack', 'none', '--iterations', '1', '--eval-runs', '1', '--count', '1', '--quiet'];
  const out = ['--out', join(folder, 'configured')];
  const { status, lines } = cmap([...base, '--defence', 'cmap', '--net-config', settings, ...least, ...out]);
  assert.is(status, 0, lines.join('\n'));
});

test('killed by SIGKILL and resumed, equal to an uninterrupted run; table and plot', async () => {
  // PGD takes 24 network evaluations an image, the judgement one: on a software driver an image goes alone.
  const { cpu } = (await testDevice()).capabilities;
  const sizes = ['eval', '--dataset', 'fashion-mnist', '--count', '3', '--steps', '11'];
  if (!cpu) sizes.push('--batch', '1');
  const args = (out: string) => [...sizes, '--attack', 'pgd', '--out', join(folder, out)];
  const whole = cmap([...args('whole'), '-q']);
  assert.is(whole.status, 0, whole.lines.join('\n'));
  const lines = () => {
    const path = join(folder, 'killed', 'records.jsonl');
    return existsSync(path) ? readFileSync(path, 'utf8').split('\n').length - 1 : 0;
  };
  const child = spawn(process.execPath, [join(root, 'dist', 'cli.js'), ...args('killed'), '-q'], {
    stdio: 'ignore',
  });
  const ended = new Promise<NodeJS.Signals | null>((done) => child.on('exit', (_, signal) => done(signal)));
  const watch = setInterval(() => {
    if (lines() >= 4) child.kill('SIGKILL');
  }, 5);
  assert.is(await ended, 'SIGKILL');
  clearInterval(watch);
  const before = lines();
  assert.ok(before >= 4 && before < 6, `${before} of 6 lines at the kill`);
  const { records: kept } = readEvaluation(join(folder, 'killed'));
  assert.is(kept[3]?.cost.batch, 1, 'what a kill loses');
  assert.not(existsSync(join(folder, 'killed', 'summary.json')));
  refused(['table', join(folder, 'killed')], /is not finished; cmap eval --resume/);
  // What it was begun with it knows.
  const resumed = cmap(['eval', '--resume', '--out', join(folder, 'killed'), '-q']);
  assert.is(resumed.status, 0, resumed.lines.join('\n'));

  const read = (name: string) => {
    const { records } = readEvaluation(join(folder, name));
    const order = records.toSorted((a, b) => a.attack.localeCompare(b.attack) || a.image - b.image);
    const points = readAdversarial(join(folder, name), order.filter(isAttacked));
    return { records: order.map(({ cost, ...rest }) => rest), points };
  };
  assert.equal(read('killed'), read('whole'));
  // What was there is as it was.
  assert.equal(readEvaluation(join(folder, 'killed')).records.slice(0, before), kept);
  const summary = (name: string) =>
    JSON.parse(readFileSync(join(folder, name, 'summary.json'), 'utf8')) as EvaluationSummary;
  const [a, b] = [summary('killed'), summary('whole')];
  for (const field of ['count', 'clean', 'standard', 'robust'] as const) {
    assert.type(a[field], 'number');
    assert.is(a[field], b[field], field);
  }
  assert.equal(Object.keys(a.attacks), ['none', 'pgd']);
  for (const attack of Object.values(a.attacks)) {
    assert.type(attack.robust, 'number');
    assert.is(attack.interval.length, 2);
  }
  assert.is(a.count, 3);

  const both = [join(folder, 'killed'), join(folder, 'whole')];
  const table = cmap(['table', ...both]);
  assert.match(table.stdout, /\| fashion-mnist \| fashion-mnist-wrn \| none \| Linf 16\/255 \| 3 \|/);
  assert.match(table.stdout, /McNemar/);
  assert.is(
    cmap(['table', both[0] as string, '--format', 'csv'])
      .stdout.trim()
      .split('\n').length,
    3,
  );
  const plot = cmap(['plot', both[0] as string]);
  assert.is(plot.status, 0, plot.lines.join('\n'));
  assert.match(readFileSync(join(folder, 'killed', 'iterations.svg'), 'utf8'), /^<svg/);
  refused([...args('whole'), '-q'], /holds an evaluation/);
  refused([...args('whole'), '--eps', '8/255', '--resume', '-q'], /eps was .*, now it is/);
});

test('stages of an ensemble are kept, and another evaluation’s images can be shown to a defence', () => {
  const at = (name: string) => join(folder, name);
  // PGD fools the first of the two alone.
  const few = [...base, '--count', '2', '--offset', '4', '--batch', '2', '--eps', '6/255'];
  // AutoAttack’s loop, without its 5000 queries.
  const spec = 'portfolio:steps=3:queries=20:points=10';
  const made = cmap([...few, '--attack', `pgd,${spec}`, '--out', at('stages'), '-q']);
  assert.is(made.status, 0, made.lines.join('\n'));
  const { records } = readEvaluation(at('stages'));
  const own = records.filter((r) => r.attack === spec);
  assert.is(own.length, 2);
  const { attacks } = JSON.parse(
    readFileSync(join(at('stages'), 'summary.json'), 'utf8'),
  ) as EvaluationSummary;
  const stages = attacks[spec]?.stages ?? [];
  assert.equal(
    stages.map((stage) => stage.attack),
    ['noise', 'fgsm', 'pgd', 'pgd-margin', 'low-frequency', 'apgd-t', 'fab-t', 'square'],
  );
  assert.is(stages.at(-1)?.robust, attacks[spec]?.surfaceRobust);
  const source = openSafetensors(join(at('stages'), own[0]?.file as string));
  const seen = own.filter((r) => r.stages?.some((stage) => stage.attack === 'square'));
  assert.is(seen.length, 1, 'left to the last');
  assert.equal(
    [...source.read('square.images')],
    seen.map((r) => r.image),
  );
  assert.equal(source.shape('square.adversarial'), [seen.length, 28, 28, 1]);
  source.close();

  // The worst image of either attack, judged by a defence that had no part in it.
  const shown = cmap([
    ...[...few, '--defence', 'bits', '--attack', `transfer:from=${at('stages')}`],
    ...['--out', at('shown'), '-q'],
  ]);
  assert.is(shown.status, 0, shown.lines.join('\n'));
  const after = readEvaluation(at('shown'));
  const transfer = after.records.filter((r) => r.attack !== 'none');
  const points = readAdversarial(at('shown'), transfer);
  transfer.forEach((record, i) => {
    assert.is(record.knowledge, 'transfer');
    const candidates = records.filter((r) => r.image === record.image && r.attack !== 'none');
    const wrong = candidates.filter((r) => r.labels[0] !== r.label);
    const [want] = readAdversarial(at('stages'), [(wrong[0] ?? candidates[0]) as EvaluationRecord]);
    assert.equal(points[i], want, `image ${record.image}`);
  });
  refused(
    [...few, '--eps', '3/255', '--attack', `transfer:from=${at('stages')}`, '--out', at('less')],
    /is of Linf eps 6\/255, this evaluation of Linf 3\/255; take one within this ball/,
  );
  refused(
    [...few, '--offset', '8', '--attack', `transfer:from=${at('stages')}`, '--out', at('others')],
    /has no image 8, 2 of 2 are missing; evaluate the same images/,
  );
});

test('verify: an attack that hardly moves fails, with the settings that it was run with', () => {
  const at = join(folder, 'weak');
  const made = cmap([
    ...['eval', '--dataset', 'fashion-mnist', '--count', '4', '--steps', '4', '--eps', '12/255'],
    // Weights of one's own for the shipped classifier.
    ...['--weights', join(root, 'weights', 'fashion-mnist-wrn.safetensors')],
    ...['--attack', 'pgd:step-size=1e-5:start=image,square:queries=1', '--out', at, '-q'],
  ]);
  assert.is(made.status, 0, made.lines.join('\n'));
  const checked = cmap(['verify', at, '--count', '1', '--noise', '0', '-q']);
  assert.is(checked.status, 1, checked.stdout);
  assert.match(checked.stdout, /reproduced +pass/);
  assert.match(checked.stdout, /budget-sweep +fail/);
  assert.match(checked.stdout, /iterative +fail/);
});

test('a diffusion defence takes the shipped denoiser, which CMAP refuses; its record says so', () => {
  const out = join(folder, 'gns');
  const settings = ['rounds=30,60', 'steps=1', 'shortRounds=30', 'shortSteps=1', 'copies=3'];
  const run = cmap([
    ...['eval', '--dataset', 'fashion-mnist', '--count', '1', '--defence', 'gns'],
    ...settings.flatMap((pair) => ['--set', pair]),
    ...['--attack', 'fgsm,fgsm@bpda', '--eot', '1', '--eval-runs', '2', '--out', out, '-q'],
  ]);
  assert.is(run.status, 0, run.lines.join('\n'));
  const { config, records } = readEvaluation(out);
  assert.equal(config.defence, {
    name: 'gns',
    settings: {
      ...{ rounds: [30, 60], steps: 1, eta: 1, shortRounds: [30], shortSteps: [1], copies: 3 },
      network: 'edm',
    },
  });
  refused(
    [
      'eval',
      '--dataset',
      'fashion-mnist',
      '--defence',
      'cmap',
      '--model',
      'fashion-mnist-edm',
      '--out',
      `${out}-no`,
    ],
    /fashion-mnist-edm: an unconditional consistency model is wanted/,
  );
  assert.equal([config.attacks.fgsm?.surface, config.attacks['fgsm@bpda']?.surface], ['full', 'bpda']);
  assert.is(records.length, 3);
  // What it made of the clean image is stored and named, too.
  const clean = records.find((r) => r.attack === 'none');
  const source = openSafetensors(join(out, clean?.file as string));
  assert.equal(source.shape('purified'), [1, 3, 28, 28, 1]);
  source.close();
  const checked = cmap(['verify', out, '--count', '0', '-q']);
  assert.match(checked.stdout, /range +pass/);
  for (const { votes, cost } of records) {
    assert.equal(
      votes.map((each) => each.reduce((a, b) => a + b, 0)),
      [3, 3],
    );
    // Two judgements of three copies, each two denoising steps and the classifier.
    assert.is(cost.defence, 2 * 3 * 3);
  }
});

test('verify: a sound evaluation passes, and one whose images were moved fails', () => {
  const at = join(folder, 'sound');
  // FGSM fools the last of the three, PGD two.
  const sizes = ['--dataset', 'fashion-mnist', '--offset', '2', '--count', '3', '--steps', '4'];
  const attacks = ['--eps', '12/255', '--attack', 'fgsm,pgd,square:queries=1'];
  const made = cmap(['eval', ...sizes, ...attacks, '--out', at, '-q']);
  assert.is(made.status, 0, made.lines.join('\n'));
  refused(['verify', at, '--noise', '-1'], /--noise must be at least 0, got -1/);
  const checked = cmap(['verify', at, '--count', '2', '--noise', '20', '-q']);
  assert.is(checked.status, 0, checked.stdout);
  assert.match(checked.stdout, /\d+ pass, 0 fail, \d+ not tested\n.*verify\.json/);
  const { items, fail } = JSON.parse(readFileSync(join(at, 'verify.json'), 'utf8')) as {
    items: { id: string; result: string; detail: string }[];
    fail: number;
  };
  assert.is(fail, 0);
  const result = Object.fromEntries(items.map((item) => [item.id, item.result]));
  for (const id of ['range', 'budget', 'complete', 'noise', 'budget-sweep', 'finite-differences'])
    assert.is(result[id], 'pass', id);
  assert.is(result['adaptive-transfer'], 'not-tested');
  // The same records under a smaller eps are beyond their budget.
  const path = join(at, 'config.json');
  const config = JSON.parse(readFileSync(path, 'utf8')) as { eps: number };
  writeFileSync(path, JSON.stringify({ ...config, eps: 3 / 255 }));
  const failed = cmap(['verify', at, '--count', '0', '-q']);
  assert.is(failed.status, 1);
  assert.match(failed.stdout, /budget +fail/);
});

test.run();
