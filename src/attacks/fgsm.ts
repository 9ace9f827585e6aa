/**
 * Fast gradient sign method (Goodfellow et al. 2015, "Explaining and harnessing adversarial examples", Sec. 4): one step
 * of the whole radius from the image, x + eps·sign(∇L), cut to [0, 1]; for L2 x + eps·∇L/‖∇L‖₂. It is PGD with one step,
 * and stands here because every stronger attack must beat it.
 */

import type { Norm } from './attack.ts';
import type { LossName } from './losses.ts';
import { Pgd } from './pgd.ts';
import type { Eot } from './query.ts';

export interface FgsmOptions {
  readonly eps: number;
  readonly norm?: Norm;
  readonly loss?: LossName;
  readonly targeted?: boolean;
  readonly eot?: Eot;
  readonly seed?: number;
}

export class Fgsm extends Pgd {
  constructor(options: FgsmOptions) {
    // A radius of 0 is allowed, a step of 0 is not: the ball holds the result anyway.
    const stepSize = options.eps > 0 ? options.eps : 1;
    super({ seed: 0, ...options, steps: 1, stepSize, randomStart: false }, 'fgsm');
  }
}
