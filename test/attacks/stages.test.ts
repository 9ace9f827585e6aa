/**
 * AutoAttack stage by stage against the published code's numbers (test/fixtures/attacks/stages.json). Takes minutes, so
 * it wants CMAP_AUTOATTACK to name rows of that file: CMAP_AUTOATTACK=Linf,resnet2b-Linf npm test -- attacks/stages
 */
import { readFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Norm } from '../../src/attacks/attack.ts';
import { AutoAttack } from '../../src/attacks/autoattack.ts';
import { Square } from '../../src/attacks/square.ts';
import { root } from '../support.ts';
import { fashion, withinBall } from './fashion.ts';
import { cifar } from './real.ts';

interface Row {
  readonly name: string;
  readonly norm: Norm;
  readonly eps: number;
  readonly count: number;
  /** A published CIFAR-10 network of the shared data instead of the shipped Fashion-MNIST classifier. */
  readonly net?: string;
  /** Queries of the Square Attack alone; version standard without it. */
  readonly square?: number;
  /** Only so many attacks of version standard. */
  readonly first?: number;
  /** Robust images: clean, then after each attack; a list a seed. */
  readonly robust: readonly (readonly number[])[];
}

const test = suite('attack stages');
const wanted = (process.env.CMAP_AUTOATTACK ?? '').split(',').filter(Boolean);
const rows = JSON.parse(readFileSync(`${root}test/fixtures/attacks/stages.json`, 'utf8')) as Row[];
if (wanted.length === 0) console.log('attack stages: skipped, CMAP_AUTOATTACK names no row');

for (const { name, net, norm, eps, count, square, first, robust } of rows.filter((row) =>
  wanted.includes(row.name),
)) {
  test(`${name}, eps ${eps}: robust accuracy within the spread of the published code`, async () => {
    const f = await (net ? cifar(net, count) : fashion(count));
    if (!f) return;
    const seed = Number(process.env.CMAP_SEED ?? 0);
    const standard = new AutoAttack({ norm, eps, seed });
    const attacks = square
      ? [new Square({ norm, eps, queries: square, seed })]
      : standard.attacks.slice(0, first);
    const result = await new AutoAttack({ norm, eps, seed, version: 'custom', attacks }).run(
      f.net,
      f.x,
      f.labels,
    );
    const adversarial = await result.adversarial.floats();
    withinBall(adversarial, f.images, f.size, norm, eps);
    const got = [result.clean.filter(Boolean).length];
    for (const stage of result.stages) {
      got.push(stage.images.length - stage.broken.length);
      stage.result.adversarial.dispose();
    }
    const seconds = result.stages.map((stage) => `${stage.attack} ${stage.seconds.toFixed(0)} s`).join(', ');
    console.log(
      `${norm} ${eps} seed ${seed}: ${got.join(' ')} of ${count} (${seconds}; ${f.device.adapter.name})`,
    );
    got.forEach((n, stage) => {
      const theirs = robust.map((list) => list[stage] as number);
      const [least, most] = [Math.min(...theirs), Math.max(...theirs)];
      // One image beside the spread of their seeds: a random stream of our own is one more.
      assert.ok(n >= least - 1 && n <= most + 1, `stage ${stage}: ${n} robust, theirs ${theirs}`);
    });
    result.adversarial.dispose();
    f.dispose();
  });
}

test.run();
