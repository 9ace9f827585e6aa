/**
 * Attacks from cheap to expensive, each on what the ones before it left, the worst point of each image kept: how much
 * robustness is left when an attacker may choose (the per-sample worst case of Carlini et al. 2019, Sec. 5.6). It is
 * AutoAttack's loop with other members: noise, FGSM, PGD on two losses, PGD in low frequencies, APGD-T, FAB-T, Square.
 *
 * A randomised target is shown each candidate four times, and at least half of them must be wrong.
 */
import { Apgd } from './apgd.ts';
import { type Attack, defaultStepSize, type Norm } from './attack.ts';
import { AutoAttack } from './autoattack.ts';
import { Fab } from './fab.ts';
import { Fgsm } from './fgsm.ts';
import { LowFrequency } from './low-frequency.ts';
import { Noise } from './noise.ts';
import { Pgd } from './pgd.ts';
import { type Eot, once } from './query.ts';
import { Square } from './square.ts';

export interface PortfolioOptions {
  readonly norm: Norm;
  readonly eps: number;
  /** Iterations of each gradient attack; default 40. */
  readonly steps?: number;
  /** Of Square; default 1000. */
  readonly queries?: number;
  /** Points of noise; default 100. */
  readonly points?: number;
  /** Of the gradient attacks and Square; default one draw. FAB has none and is left out where there are several. */
  readonly eot?: Eot;
  /** How often a candidate is shown; default 4 where there are several draws, else 1. */
  readonly evaluations?: number;
  readonly targetClasses?: number;
  readonly seed?: number;
}

/** @throws InputError for options out of range */
export function portfolio(options: PortfolioOptions): AutoAttack {
  const { norm, eps, steps = 40, queries = 1000, points = 100, eot = once, seed = 0 } = options;
  const { evaluations = eot.draws > 1 ? 4 : 1, targetClasses = 9 } = options;
  const ball = { norm, eps, seed };
  const pgd = { ...ball, steps, stepSize: defaultStepSize(norm, eps, steps), randomStart: true, eot };
  const attacks: Attack[] = [
    new Noise({ ...ball, points }),
    new Fgsm({ ...ball, eot }),
    new Pgd({ ...pgd, keep: 'best' }),
    new Pgd({ ...pgd, keep: 'best', loss: 'margin' }, 'pgd-margin'),
    ...(norm === 'L1' ? [] : [new LowFrequency({ ...ball, steps, eot })]),
    new Apgd({ ...ball, loss: 'targeted', steps, targetClasses, eot }),
    ...(eot.draws > 1 ? [] : [new Fab({ ...ball, targeted: true, steps, targetClasses })]),
    new Square({ ...ball, queries, eot }),
  ];
  return new AutoAttack({ norm, eps, version: 'custom', attacks, evaluations, eot, seed });
}
