/**
 * What is deterministic in the attacks against the published code and a PyTorch loop on the same weights
 * (reference/attacks.py fixture).
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { apgdCheckpoints } from '../../src/attacks/apgd.ts';
import { Ascent } from '../../src/attacks/ascent.ts';
import { Job, type Norm, Slots } from '../../src/attacks/attack.ts';
import { Fab } from '../../src/attacks/fab.ts';
import { attackLoss } from '../../src/attacks/losses.ts';
import { Pgd } from '../../src/attacks/pgd.ts';
import { Query } from '../../src/attacks/target.ts';
import { fromNchw, loadFixture } from '../support.ts';
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

for (const norm of ['Linf', 'L2'] as const) {
  for (const targeted of [false, true]) {
    test(`pgd ${norm}${targeted ? ', targeted' : ''}: loss and success of each image`, async () => {
      const f = await fashion(16);
      const key = `pgd-${norm}${targeted ? '-targeted' : ''}`;
      const attack = new Pgd({ ...optionsOf(key), randomStart: false, seed: 0, targeted });
      const targets = f.labels.map((y) => (y + 1) % 10);
      const result = await attack.run(f.net, f.x, f.labels, { targets });
      const loss = fixture().get(`${key}.loss`).data;
      const hit = fixture().get(`${key}.hit`).data;
      // A gradient near zero may have the other sign after rounding: an image may differ more, their mean does not.
      const errors = result.loss.map(
        (v, i) => Math.abs(v - (loss[i] as number)) / (1 + Math.abs(loss[i] as number)),
      );
      console.log(key, Math.max(...errors));
      assert.ok(
        errors.filter((e) => e > 1e-3).length <= 1 && Math.max(...errors) < 2e-2,
        `losses: ${errors}`,
      );
      assert.equal(result.success.map(Number), [...hit]);
      result.adversarial.dispose();
      f.dispose();
    });
  }

  for (const name of ['ce', 'dlr', 'dlr-targeted'] as const) {
    test(`apgd ${norm}, ${name}: best loss and step sizes from a given start`, async () => {
      const f = await fashion(8);
      const key = `apgd-${norm}-${name}`;
      const { eps } = optionsOf(key);
      const [data, shape] = fromNchw(fixture().get(`${key}.start`));
      const start = f.device.tensor(data, shape);
      const targets = [...fixture().get('apgd.targets').data];
      const job = await Job.open('apgd', f.net, f.x, f.labels, { norm, eps }, { start, targets });
      const slots = new Slots(job);
      const loss = attackLoss(name === 'ce' ? 'ce' : 'dlr', name === 'dlr-targeted', 10);
      const query = new Query(f.net, slots, { loss, goal: 'untargeted' });
      const steps = 100;
      const ascent = new Ascent(slots, query, {
        norm,
        eps,
        steps,
        stepSize: 2 * eps,
        a: 0.75,
        checkpoints: apgdCheckpoints(steps),
        rho: 0.75,
      });
      slots.load([...f.labels.keys()]);
      const end = await ascent.run();
      const best = fixture().get(`${key}.best`).data;
      const step = fixture().get(`${key}.step`).data;
      const hit = fixture().get(`${key}.hit`).data;
      const after = fixture().get(`${key}.bestAfter`).data;
      const bestAfter = job.trace.map(({ loss: l }) => Math.max(...l.slice(0, 23)));
      const differ = (a: readonly number[], b: ArrayLike<number>) =>
        Math.max(...a.map((v, i) => Math.abs(v - (b[i] as number)) / (1 + Math.abs(b[i] as number))));
      console.log(
        key,
        differ(bestAfter, after),
        differ(end.bestLoss, best),
        end.stepSize.map((s, i) => Math.log2(s / step[i]!)),
      );
      assert.equal(end.anyHit.map(Number), [...hit]);
      for (const t of [ascent, query, slots, start]) t.dispose();
      f.dispose();
    });
  }

  for (const targeted of [false, true]) {
    test(`fab${targeted ? '-t' : ''} ${norm}: smallest perturbations without a random start`, async () => {
      const f = await fashion(8);
      const { eps } = optionsOf(`apgd-${norm}-ce`);
      const attack = new Fab({ norm, eps, targeted, steps: 20, targetClasses: 1 });
      const result = await attack.run(f.net, f.x, f.labels);
      const want = fixture().get(`fab-${norm}${targeted ? '-targeted' : ''}`).data;
      console.log(`fab ${norm}${targeted}`, result.loss, [...want]);
      result.adversarial.dispose();
      f.dispose();
    });
  }
}

test.run();
