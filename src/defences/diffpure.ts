/**
 * DiffPure (Nie et al. 2022, "Diffusion models for adversarial purification"): noise the image up to the time t* of the
 * VP-SDE (Eq. 5 there) and integrate the reverse SDE back to 0 (Eq. 6), or its probability-flow ODE.
 *
 * In x = u/√(1+σ²), with ᾱ(t) = 1/(1+σ²) and the score −(x − √ᾱ D)/(1−ᾱ), a step from t to t − h is Euler–Maruyama's:
 *   x' = x + ½βh·x − w βh (x − √ᾱ D)/(1−ᾱ) + √(βh)·n,   w = 1;
 * the ODE has w = ½ and no noise. 'ddpm' takes the posterior of DDPM's 1000 discrete steps instead (Ho et al. 2020,
 * Eq. 7): in u, u' = D + (σ'²/σ²)(u − D) + σ'√(1 − σ'²/σ²)·n.
 *
 * Published: t* = 0.1 (CIFAR-10, L∞ 8/255), 0.075 (L2 0.5), 0.15 (ImageNet, 4/255); h = 0.001; one purification.
 */
import type { Classifier } from '../cmap/vote.ts';
import { chainDefence, checkSettings, type DenoiseStep, type Step, whole } from './chain.ts';
import type { Defence } from './defence.ts';
import type { Denoiser } from './denoiser.ts';
import { ddpmSigma, ladder, vpBeta, vpSigma } from './schedules.ts';

export interface DiffPureSettings {
  /** t*, in (0, 1]. */
  readonly t: number;
  /** Of the way back; 0 for steps of 0.001, as published. */
  readonly steps: number;
  readonly kind: 'sde' | 'ode' | 'ddpm';
  /** Of the surrogate chain of the `short` surface, by DDPM's posterior. */
  readonly short: number;
  /** Purifications that vote. */
  readonly copies: number;
}

export const diffPureDefaults: DiffPureSettings = { t: 0.1, steps: 0, kind: 'sde', short: 5, copies: 1 };

/** σ -> σ' by DDIM (Song et al. 2021, Eq. 12) with η, in u; η = 1 is DDPM's posterior. */
export function ddimStep(sigma: number, next: number, eta: number): DenoiseStep {
  const noise = (eta * next * Math.sqrt(Math.max(0, sigma ** 2 - next ** 2))) / sigma;
  const keep = Math.sqrt(Math.max(0, next ** 2 - noise ** 2)) / sigma;
  return { kind: 'denoise', sigma, keep, denoised: 1 - keep, noise };
}

/** Noise to DDPM's step t and back to 0. */
export function ddpmChain(t: number, steps: number, eta = 1): Step[] {
  const times = ladder(t, steps);
  return [
    { kind: 'noise', noise: ddpmSigma(t) },
    ...times.slice(1).map((next, j): Step => ddimStep(ddpmSigma(times[j] as number), ddpmSigma(next), eta)),
  ];
}

export function diffPureChain({ t, steps: asked, kind }: Omit<DiffPureSettings, 'short' | 'copies'>): Step[] {
  const steps = asked === 0 ? Math.max(1, Math.round(1000 * t)) : asked;
  if (kind === 'ddpm') return ddpmChain(Math.round(1000 * t), steps);
  const h = t / steps;
  const weight = kind === 'sde' ? 1 : 0.5;
  return [
    { kind: 'noise', noise: vpSigma(t) },
    ...Array.from({ length: steps }, (_, j): Step => {
      const now = t - j * h;
      const sigma = vpSigma(now);
      const next = j === steps - 1 ? 0 : vpSigma(now - h);
      const bh = vpBeta(now) * h;
      const size = Math.sqrt(1 + next ** 2);
      // √(1+σ'²)/√(1+σ²) and 1 − ᾱ.
      const scale = size / Math.sqrt(1 + sigma ** 2);
      const pull = (weight * bh * (1 + sigma ** 2)) / sigma ** 2;
      return {
        kind: 'denoise',
        sigma,
        keep: scale * (1 + 0.5 * bh - pull),
        denoised: scale * pull,
        noise: kind === 'sde' ? size * Math.sqrt(bh) : 0,
      };
    }),
  ];
}

/** @throws InputError */
export function diffPure(
  denoiser: Denoiser,
  classifier: Classifier,
  settings: DiffPureSettings = diffPureDefaults,
): Defence {
  const { t, steps, kind, short, copies } = settings;
  const most = Math.round(1000 * t);
  checkSettings('diffpure', [
    ['t', t, t >= 0.001 && t <= 1, 'in [0.001, 1]'],
    ['kind', kind, ['sde', 'ode', 'ddpm'].includes(kind), 'sde, ode or ddpm'],
    [
      'steps',
      steps,
      whole(steps, 0, kind === 'ddpm' ? most : 10_000),
      kind === 'ddpm'
        ? `an integer of 1 to 1000 t = ${most}, or 0 for all`
        : 'an integer of 1 to 10000, or 0 for steps of 0.001',
    ],
    ['short', short, whole(short, 1, most), `an integer of 1 to 1000 t = ${most}`],
  ]);
  return chainDefence({
    name: 'diffpure',
    denoiser,
    classifier,
    steps: diffPureChain(settings),
    short: {
      steps: ddpmChain(most, short),
      summary: `a chain of ${short} DDPM steps from the same level, differentiated exactly`,
    },
    copies,
    settings: { ...settings },
  });
}
