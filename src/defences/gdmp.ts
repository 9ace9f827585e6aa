/**
 * Guided diffusion for purification (Wang et al. 2022, "Guided diffusion model for adversarial purification"): rounds
 * of noise and DDPM's ancestral steps, each of which is drawn towards the attacked image, so that denoising does not
 * forget it. With x_t = √ᾱ u the mean of a step moves by β̃·S·g, where
 *   g = −∇ mean (x_t − q)²,  q = √ᾱ·image + √(1−ᾱ)·m a fresh noising of the image,  mean over an image's pixels,
 *   S = scale · 3/(2·budget/255) · √(1−ᾱ)/√ᾱ.
 * In u that is u' = D + (σ'²/σ²)(u − D) + s·n − c (u − image − σ m), c = β̃ S (2/pixels) √ᾱ/√ᾱ', β̃ = s² ᾱ'; c is at most 1,
 * the image itself, which published settings do not reach.
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
  budget: 8,
  short: 5,
  copies: 10,
};

export function gdmpChain(settings: Omit<GdmpSettings, 'short' | 'copies'>, pixels: number): Step[] {
  const { rounds, t, steps, scale, budget } = settings;
  const times = ladder(t, steps === 0 ? t : steps);
  const back = times.slice(1).map((to, j): Step => {
    const [sigma, next] = [ddpmSigma(times[j] as number), ddpmSigma(to)];
    const step = ddimStep(sigma, next, 1);
    const variance = step.noise ** 2 / (1 + next ** 2);
    const strength = (scale * 3 * sigma) / ((2 * budget) / 255);
    const c = Math.min(
      1,
      (variance * strength * 2 * Math.sqrt(1 + next ** 2)) / pixels / Math.sqrt(1 + sigma ** 2),
    );
    return { ...step, keep: step.keep - c, guide: c, guideNoise: sigma };
  });
  const round: Step[] = [{ kind: 'noise', noise: ddpmSigma(t) }, ...back];
  return Array.from({ length: rounds }, () => round).flat();
}

/** @throws InputError */
export function gdmp(
  denoiser: Denoiser,
  classifier: Classifier,
  settings: GdmpSettings = gdmpDefaults,
): Defence {
  const { rounds, t, steps, scale, budget, short, copies } = settings;
  checkSettings('gdmp', [
    ['rounds', rounds, whole(rounds, 1, 100), 'an integer of 1 to 100'],
    ['t', t, whole(t, 1, 1000), 'an integer of 1 to 1000'],
    ['steps', steps, whole(steps, 0, t), `an integer of 1 to t = ${t}, or 0 for t`],
    ['scale', scale, scale >= 0 && Number.isFinite(scale), 'a number of at least 0'],
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
