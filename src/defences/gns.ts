/**
 * Gradual noise scheduling (Lee & Kim 2023, "Robust evaluation of diffusion-based adversarial purification", Sec. 5):
 * several rounds of noise and denoising by DDPM, each to its own step of 1000, small ones first. The label is a vote of
 * ten runs.
 *
 * Published for CIFAR-10: rounds to 30, 30, 30, 30, 50, 50, 125, 125 (ImageNet ends with 200, 200; SVHN has 80 alone),
 * every round denoised in as many steps; their attack goes through a surrogate of rounds 30, 50, 125 denoised in 1, 1
 * and 5 steps.
 */
import type { Classifier } from '../cmap/vote.ts';
import { chainDefence, checkSettings, whole } from './chain.ts';
import type { Defence } from './defence.ts';
import type { Denoiser } from './denoiser.ts';
import { ddpmChain } from './diffpure.ts';

export interface GnsSettings {
  /** Steps of 1000 to which each round adds noise. */
  readonly rounds: readonly number[];
  /** Denoising steps of each round; 0 for as many as its noise, as published. */
  readonly steps: number;
  /** Of DDIM's update: 1 is DDPM, 0 draws nothing on the way back. */
  readonly eta: number;
  /** Rounds and denoising steps of the surrogate of the `short` surface. */
  readonly shortRounds: readonly number[];
  readonly shortSteps: readonly number[];
  /** Purifications that vote. */
  readonly copies: number;
}

export const gnsDefaults: GnsSettings = {
  rounds: [30, 30, 30, 30, 50, 50, 125, 125],
  steps: 0,
  eta: 1,
  shortRounds: [30, 50, 125],
  shortSteps: [1, 1, 5],
  copies: 10,
};

export function gnsChain({ rounds, steps, eta }: Pick<GnsSettings, 'rounds' | 'steps' | 'eta'>) {
  return rounds.flatMap((t) => ddpmChain(t, steps === 0 ? t : Math.min(steps, t), eta));
}

/** @throws InputError */
export function gns(
  denoiser: Denoiser,
  classifier: Classifier,
  settings: GnsSettings = gnsDefaults,
): Defence {
  const { rounds, steps, eta, shortRounds, shortSteps, copies } = settings;
  const times = (list: readonly number[]) => list.length > 0 && list.every((t) => whole(t, 1, 1000));
  checkSettings('gns', [
    ['rounds', rounds, times(rounds), 'integers of 1 to 1000, such as 30,30,125'],
    [
      'steps',
      steps,
      whole(steps, 0, 1000),
      'an integer of 1 to 1000, or 0 for as many as each round’s noise',
    ],
    ['eta', eta, eta >= 0 && eta <= 1, 'in [0, 1]'],
    ['shortRounds', shortRounds, times(shortRounds), 'integers of 1 to 1000, such as 30,50,125'],
    [
      'shortSteps',
      shortSteps,
      shortSteps.length === shortRounds.length &&
        shortSteps.every((s, i) => whole(s, 1, shortRounds[i] as number)),
      `${shortRounds.length} integers, each at least 1 and at most its round of shortRounds`,
    ],
  ]);
  return chainDefence({
    name: 'gns',
    denoiser,
    classifier,
    steps: gnsChain(settings),
    short: {
      steps: shortRounds.flatMap((t, i) => ddpmChain(t, shortSteps[i] as number, eta)),
      summary: `rounds to ${shortRounds} denoised in ${shortSteps} steps, differentiated exactly`,
    },
    copies,
    settings: { ...settings },
  });
}
