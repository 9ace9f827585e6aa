/**
 * Guided diffusion for purification (Wang et al. 2022, "Guided diffusion model for adversarial purification"): rounds
 * of noise and DDPM's ancestral steps, each of which is drawn towards the attacked image, so that denoising does not
 * forget it. With x_t = √ᾱ u the mean of a step moves by v·S·g, where v is the step's variance and
 *   g = −∇ mean (x_t − q)²,  q = √ᾱ·image + √(1−ᾱ)·m a fresh noising of the image,
 *   S = scale · 3/(2·budget/255) · √(1−ᾱ)/√ᾱ.
 * The published code means over all pixels of a batch of 100 images, so the gradient of each image is a hundredth of
 * that of its own mean: `meanOver`. As there the variance is β (the last step adds no noise, and v is the posterior's of
 * the step before), and the predicted image is clipped to [-1, 1].
 *
 * In u that is u' = D + (σ'²/σ²)(u − D) + s·n − c (u − image − σ m), c = v S (2/(meanOver·pixels)) √ᾱ/√ᾱ', s² = v/ᾱ'; c is
 * at most 1, the image itself, which published settings do not reach.
 *
 * Published for CIFAR-10 under PGD and AutoAttack: 4 rounds of 36 steps of 1000, scale 60000 for the squared error and a
 * budget of 8 (of 255), 10 paths that vote. Guidance by SSIM, which they use under BPDA, is not built.
 */
import type { Classifier } from '../cmap/vote.ts';
import { chainDefence, checkSettings, type Step, whole } from './chain.ts';
import type { Defence } from './defence.ts';
import type { Denoiser } from './denoiser.ts';
import { ddimStep } from './diffpure.ts';
import { ddpmSigma, ladder } from './schedules.ts';

export interface GdmpSettings {
  readonly rounds: number;
  /** Steps of 1000 to which each round adds noise. */
  readonly t: number;
  /** Of the way back in each round; 0 for t, as published. */
  readonly steps: number;
  /** Of the guide. */
  readonly scale: number;
  /** Images over which the published squared error is a mean: its batch. */
  readonly meanOver: number;
  /** The perturbation that is expected, of 255. */
  readonly budget: number;
  /** Steps of the one round of the `short` surface. */
  readonly short: number;
  /** Purifications that vote. */
  readonly copies: number;
}

export const gdmpDefaults: GdmpSettings = {
  rounds: 4,
  t: 36,
  steps: 0,
  scale: 60_000,
  meanOver: 100,
  budget: 8,
  short: 5,
  copies: 10,
};

export function gdmpChain(settings: Omit<GdmpSettings, 'short' | 'copies'>, pixels: number): Step[] {
  const { rounds, t, steps, scale, meanOver, budget } = settings;
  const levels = ladder(t, steps === 0 ? t : steps).map(ddpmSigma);
  const back = levels.slice(1).map((next, j): Step => {
    const sigma = levels[j] as number;
    const { keep, denoised } = ddimStep(sigma, next, 1);
    // β = 1 − ᾱ/ᾱ'.
    const beta = (sigma ** 2 - next ** 2) / (1 + sigma ** 2);
    const before = levels[j - 1] ?? sigma;
    const variance = next > 0 ? beta : ddimStep(before, sigma, 1).noise ** 2 / (1 + sigma ** 2);
    const strength = (scale * 3 * sigma) / ((2 * budget) / 255);
    const c = Math.min(
      1,
      (variance * strength * 2 * Math.sqrt((1 + next ** 2) / (1 + sigma ** 2))) / (meanOver * pixels),
    );
    const noise = next > 0 ? Math.sqrt(beta * (1 + next ** 2)) : 0;
    return {
      kind: 'denoise',
      sigma,
      keep: keep - c,
      denoised,
      noise,
      clip: true,
      guide: c,
      guideNoise: sigma,
    };
  });
  const round: Step[] = [{ kind: 'noise', noise: levels[0] as number }, ...back];
  return Array.from({ length: rounds }, () => round).flat();
}

/** @throws InputError */
export function gdmp(
  denoiser: Denoiser,
  classifier: Classifier,
  settings: GdmpSettings = gdmpDefaults,
): Defence {
  const { rounds, t, steps, scale, meanOver, budget, short, copies } = settings;
  checkSettings('gdmp', [
    ['rounds', rounds, whole(rounds, 1, 100), 'an integer of 1 to 100'],
    ['t', t, whole(t, 1, 1000), 'an integer of 1 to 1000'],
    ['steps', steps, whole(steps, 0, t), `an integer of 1 to t = ${t}, or 0 for t`],
    ['scale', scale, scale >= 0 && Number.isFinite(scale), 'a number of at least 0'],
    ['meanOver', meanOver, whole(meanOver, 1, 1e6), 'an integer of 1 to 1000000'],
    ['budget', budget, budget > 0 && budget <= 255, 'in (0, 255]'],
    ['short', short, whole(short, 1, t), `an integer of 1 to t = ${t}`],
  ]);
  const pixels = denoiser.unet.imageShape.reduce((p, q) => p * q, 1);
  return chainDefence({
    name: 'gdmp',
    denoiser,
    classifier,
    steps: gdmpChain(settings, pixels),
    short: {
      steps: gdmpChain({ ...settings, rounds: 1, steps: short }, pixels),
      summary: `one round of ${short} guided steps, differentiated exactly`,
    },
    copies,
    settings: { ...settings },
  });
}
