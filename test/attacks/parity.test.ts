/**
 * What is deterministic in the attacks against the published code and a PyTorch loop on the same weights
 * (reference/attacks.py fixture).
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Apgd, apgdCheckpoints, l1Checkpoints } from '../../src/attacks/apgd.ts';
import { Ascent } from '../../src/attacks/ascent.ts';
import { Job, type Norm, Slots } from '../../src/attacks/attack.ts';
import { Fab } from '../../src/attacks/fab.ts';
import { projectL1 } from '../../src/attacks/l1.ts';
import { attackLoss } from '../../src/attacks/losses.ts';
import { Pgd } from '../../src/attacks/pgd.ts';
import { Query } from '../../src/attacks/query.ts';
import { squareBump, squareSide } from '../../src/attacks/square.ts';
import { assertClose, fromNchw, loadFixture } from '../support.ts';
import { fashion } from './fashion.ts';

const test = suite('attack parity');
const fixture = () => loadFixture('attacks/fashion-mnist');
const optionsOf = (key: string) =>
  JSON.parse(fixture().metadata.options as string)[key] as {
    norm: Norm;
    eps: number;
    steps: number;
    stepSize: number;
  };

/** Largest |a − b| / (1 + |b|). */
const difference = (a: readonly number[], b: ArrayLike<number>) =>
  Math.max(...a.map((v, i) => Math.abs(v - (b[i] as number)) / (1 + Math.abs(b[i] as number))));

for (const norm of ['Linf', 'L2', 'L1'] as const) {
  for (const targeted of [false, true]) {
    test(`pgd ${norm}${targeted ? ', targeted' : ''}: loss and success of each image`, async () => {
      const f = await fashion(8);
      const key = `pgd-${norm}${targeted ? '-targeted' : ''}`;
      const attack = new Pgd({ ...optionsOf(key), randomStart: false, seed: 0, targeted });
      const targets = f.labels.map((y) => (y + 1) % 10);
      const result = await attack.run(f.net, f.x, f.labels, { targets });
      // A gradient near zero may have the other sign after rounding, which moves a pixel: 1.2e-3 was seen.
      const error = difference(result.loss, fixture().get(`${key}.loss`).data);
      assert.ok(error < 3e-3, `losses differ by ${error}`);
      assert.equal(result.success.map(Number), [...fixture().get(`${key}.hit`).data]);
      result.adversarial.dispose();
      f.dispose();
    });
  }

  for (const name of ['ce', 'dlr', 'dlr-targeted'] as const) {
    test(`apgd ${norm}, ${name}: best loss and step sizes from a given start`, async () => {
      const f = await fashion(4);
      const key = `apgd-${norm}-${name}`;
      const { eps, steps } = optionsOf(key);
      const start = f.device.tensor(...fromNchw(fixture().get(`${key}.start`)));
      const targets = [...fixture().get('apgd.targets').data];
      const job = await Job.open('apgd', f.net, f.x, f.labels, { norm, eps }, { start, targets });
      const slots = new Slots(job);
      const loss = attackLoss(name === 'ce' ? 'ce' : 'dlr', name === 'dlr-targeted', 10);
      const query = new Query(f.net, slots, { loss, goal: 'untargeted' });
      const checkpoints = norm === 'L1' ? l1Checkpoints(steps) : apgdCheckpoints(steps);
      const ascent = new Ascent(slots, query, {
        norm,
        eps,
        steps,
        stepSize: norm === 'L1' ? eps : 2 * eps,
        a: 0.75,
        checkpoints,
        rho: 0.75,
        sparsity: 'start',
      });
      slots.load([...f.labels.keys()]);
      const end = await ascent.run();
      const first = 8; // L∞ and L2: the first checkpoint
      const bestAfter = job.trace.map((trace) => Math.max(...trace.loss.slice(0, first + 1)));
      // After few steps rounding has moved few pixels; to the end it has moved paths apart, the more in L1, where a step
      // moves a few pixels far and their count decides how many move next.
      const early = difference(bestAfter, fixture().get(`${key}.bestAfter`).data);
      assert.ok(early < 3e-3, `best losses at step ${first} differ by ${early}`);
      const late = difference(end.bestLoss, fixture().get(`${key}.best`).data);
      assert.ok(late < (norm === 'L1' ? 0.2 : 1e-2), `best losses differ by ${late}`);
      // A count at its threshold may fall to either side: then one halving more or less.
      const step = fixture().get(`${key}.step`).data;
      const halvings = end.stepSize.map((s, i) => Math.abs(Math.log2(s / (step[i] as number))));
      if (norm !== 'L1')
        assert.ok(
          Math.max(...halvings) <= 1.001 && halvings.filter((h) => h > 0.001).length <= 2,
          `halvings differ by ${halvings}`,
        );
      assert.equal(end.anyHit.map(Number), [...fixture().get(`${key}.hit`).data]);
      for (const t of [ascent, query, slots, start]) t.dispose();
      f.dispose();
    });
  }

  for (const targeted of [false, true]) {
    test(`fab${targeted ? '-t' : ''} ${norm}: smallest perturbations without a random start`, async () => {
      const f = await fashion(4);
      const key = `fab-${norm}${targeted ? '-targeted' : ''}`;
      const { eps, steps } = optionsOf(key);
      const attack = new Fab({ norm, eps, targeted, steps, targetClasses: 1 });
      const result = await attack.run(f.net, f.x, f.labels);
      const want = fixture().get(key).data;
      // Theirs is 0 where nothing adversarial was found.
      const lengths = result.loss.map((v) => (Number.isFinite(v) ? -v : 0));
      const error = Math.max(
        ...lengths.map((v, i) => Math.abs(v - (want[i] as number)) / ((want[i] as number) + 1e-9)),
      );
      assert.ok(error < 1e-3, `norms ${lengths} differ by ${error} of theirs, ${[...want]}`);
      assert.equal(
        result.success,
        [...want].map((length) => length > 0 && length <= eps),
      );
      result.adversarial.dispose();
      f.dispose();
    });
  }
}

test('the projection onto the L1 ball within [0, 1] is the published one', async () => {
  const f = await fashion(4);
  const { eps } = optionsOf('apgd-L1-ce');
  const job = await Job.open('l1', f.net, f.x, f.labels, { norm: 'L1', eps }, {});
  const slots = new Slots(job);
  slots.load([...f.labels.keys()]);
  const raw = fromNchw(fixture().get('l1.raw'))[0];
  slots.x.write(f.images.map((v, k) => v + (raw[k] as number)));
  projectL1(slots, eps);
  const want = fromNchw(fixture().get('l1.projected'))[0];
  const got = (await slots.x.floats()).map((v, k) => v - (f.images[k] as number));
  // Theirs is projected to eps, ours to a little less.
  assertClose(got, want, 2e-5, 'projected');
  assert.ok(want.filter((v) => v !== 0).length > 4 * 8, 'the ball is not empty');
  slots.dispose();
  f.dispose();
});

test('apgd L1 through balls of 3, 2 and 1 eps: best loss from a given start', async () => {
  const f = await fashion(4);
  const { eps } = optionsOf('apgd-L1-ce');
  const start = f.device.tensor(...fromNchw(fixture().get('apgd-L1-balls.start')));
  const attack = new Apgd({ norm: 'L1', eps, loss: 'ce', steps: 40 });
  const result = await attack.run(f.net, f.x, f.labels, { start });
  // Rounding decides which pixel moves and when a step is halved; half of the images may take another way.
  const want = fixture().get('apgd-L1-balls.best').data;
  const errors = result.loss.map((v, i) => difference([v], [want[i] as number])).sort((a, b) => a - b);
  assert.ok((errors[(errors.length - 1) >> 1] as number) < 5e-2, `best losses differ by ${errors}`);
  assert.ok((errors.at(-1) as number) < 0.5, `best losses differ by ${errors}`);
  assert.equal(result.success.map(Number), [...fixture().get('apgd-L1-balls.hit').data]);
  for (const t of [result.adversarial, start]) t.dispose();
  f.dispose();
});

test('the windows of APGD are the published ones', () => {
  const windows = apgdCheckpoints(100);
  assert.is(windows.length, 101);
  assert.equal(
    windows.flatMap((w, t) => (w > 0 ? [[t, w]] : [])),
    [
      [22, 22],
      [41, 19],
      [57, 16],
      [70, 13],
      [80, 10],
      [87, 7],
      [93, 6],
      [99, 6],
    ],
  );
});

test('the side of a square follows the published schedule', () => {
  const o = { p: 0.8, queries: 5000, rescale: false };
  const sides = (norm: Norm) => [0, 10, 11, 51, 201, 501, 4999].map((q) => squareSide(q, [28, 28], norm, o));
  // round(28 sqrt(0.8 / 2^k)), odd and at least 3 for L2.
  assert.equal(sides('Linf'), [25, 25, 18, 13, 9, 6, 2]);
  assert.equal(sides('L2'), [25, 25, 19, 13, 9, 7, 3]);
  const bump = squareBump(5);
  assert.ok(Math.abs(bump.reduce((sum, v) => sum + v * v, 0) - 1) < 1e-6);
  assert.ok((bump[7] as number) > 0 && (bump[17] as number) < 0);
});

test.run();
