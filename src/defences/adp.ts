/**
 * Adaptive denoising purification (Yoon et al. 2021, "Adversarial purification with score-based generative models"):
 * noise of σ on the image p in [0, 1], clipped, then a few steps along the score, each as long as its curvature allows:
 *   p' = p + α s(p),  α = clamp(λδ/(1 − z), α_min, α_max),  z = ⟨s(p), s(p + δ s(p))⟩/⟨s(p), s(p)⟩,
 * until α ≤ α_stop. The label is a vote of ten noisy copies (the paper averages their outputs).
 *
 * Published for CIFAR-10: σ = 0.25, at most 10 steps, λ = 0.05, δ = 1e-3, α in [1e-5, 0.1], α_stop = 1e-3, 10 copies,
 * with an NCSNv2. That network is blind to the noise level; ours know it, and are asked at one level throughout, σ
 * unless `level` says otherwise: s(p) = (D(p) − p)/level². Where D barely depends on p a step then goes the share λ of
 * the way to D.
 *
 * In u = 2p − 1: u' = u + α (D(u, 2 level) − u)/level², and the probe is u + δ (D − u)/level².
 */
import type { Classifier } from '../cmap/vote.ts';
import { chainDefence, checkSettings, type Step, whole } from './chain.ts';
import type { Defence } from './defence.ts';
import type { Denoiser } from './denoiser.ts';

export interface AdpSettings {
  /** σ of the noise on pixels in [0, 1]. */
  readonly sigma: number;
  /** At which the network is asked, in pixels; 0 for σ. */
  readonly level: number;
  readonly steps: number;
  /** λ. */
  readonly rate: number;
  /** δ. */
  readonly probe: number;
  readonly least: number;
  readonly most: number;
  /** Images whose α is not above it are done. */
  readonly stop: number;
  readonly copies: number;
}

export const adpDefaults: AdpSettings = {
  sigma: 0.25,
  level: 0,
  steps: 10,
  rate: 0.05,
  probe: 1e-3,
  least: 1e-5,
  most: 0.1,
  stop: 1e-3,
  copies: 10,
};

export function adpChain(settings: Omit<AdpSettings, 'copies'>): Step[] {
  const { sigma, level: given, steps, rate, probe, least, most, stop } = settings;
  const level = given === 0 ? sigma : given;
  const ascend: Step = {
    kind: 'ascend',
    sigma: 2 * level,
    divisor: level ** 2,
    probe,
    rate,
    least,
    most,
    stop,
  };
  return [{ kind: 'noise', noise: 2 * sigma, clip: true }, ...new Array<Step>(steps).fill(ascend)];
}

/** @throws InputError */
export function adp(
  denoiser: Denoiser,
  classifier: Classifier,
  settings: AdpSettings = adpDefaults,
): Defence {
  const { sigma, level, steps, rate, probe, least, most, stop, copies } = settings;
  const positive = (v: number) => v > 0 && Number.isFinite(v);
  checkSettings('adp', [
    ['sigma', sigma, sigma > 0 && sigma <= 10, 'in (0, 10], in pixels of [0, 1]'],
    [
      'level',
      level,
      (level >= 0.005 && level <= 10) || (level === 0 && sigma >= 0.005),
      'in [0.005, 10], or 0 for sigma',
    ],
    ['steps', steps, whole(steps, 1, 1000), 'an integer of 1 to 1000'],
    ['rate', rate, positive(rate), 'a positive number'],
    ['probe', probe, positive(probe), 'a positive number'],
    ['least', least, positive(least), 'a positive number'],
    ['most', most, positive(most) && most >= least, `a number of at least least = ${least}`],
    ['stop', stop, stop >= 0 && Number.isFinite(stop), 'a number of at least 0'],
  ]);
  return chainDefence({
    name: 'adp',
    denoiser,
    classifier,
    steps: adpChain(settings),
    copies,
    settings: { ...settings },
  });
}
