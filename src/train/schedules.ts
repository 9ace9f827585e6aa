/** What changes over training, each a function of the step: learning rate, noise levels, discretisation, target's rate. */
import { InputError } from '../engine/errors.ts';

export interface RateSchedule {
  readonly lr: number;
  /** constant or cosine. */
  readonly schedule: string;
  /** Steps of a linear rise from 0. */
  readonly warmup: number;
  readonly steps: number;
}

/** The learning rate of update `step` (0, 1, …): after the rise, lr or lr·½(1 + cos πs), s from 0 to 1 at the last step. */
export function learningRate({ lr, schedule, warmup, steps }: RateSchedule, step: number): number {
  if (step < warmup) return (lr * (step + 1)) / warmup;
  if (schedule === 'constant') return lr;
  if (schedule !== 'cosine')
    throw new InputError(`schedule: there is no "${schedule}"; there are constant, cosine`);
  const s = (step - warmup) / Math.max(1, steps - warmup);
  return (lr * (1 + Math.cos(Math.PI * Math.min(1, s)))) / 2;
}

/**
 * The weight of the new value in an average of rate r: 1 − r, early more, so that the half-life is no longer than the share `rampUp` of
 * the updates so far (Karras et al. 2022: 0.05; 0 is none).
 */
export function averageWeight(rate: number, step: number, rampUp: number): number {
  return rampUp === 0 ? 1 - rate : Math.max(1 - rate, 1 - 0.5 ** (1 / rampUp / step));
}

/** N(k) = ⌈√(k/K ((s₁+1)² − s₀²) + s₀²) − 1⌉ + 1 (Song et al. 2023, App. C). */
export function consistencyLevels(step: number, steps: number, s0: number, s1: number): number {
  const k = Math.min(step, steps);
  return Math.ceil(Math.sqrt((k / steps) * ((s1 + 1) ** 2 - s0 ** 2) + s0 ** 2) - 1) + 1;
}

/** μ(k) = exp(s₀ ln μ₀ / (N(k) − 1)): the published code divides by N(k) before its last + 1. */
export function targetRate(levels: number, s0: number, mu0: number): number {
  return mu0 === 0 ? 0 : Math.exp((s0 * Math.log(mu0)) / (levels - 1));
}

/** N(k) = min(s₀ 2^⌊k/K'⌋, s₁) + 1, K' = ⌊K/(log₂⌊s₁/s₀⌋ + 1)⌋ (Song and Dhariwal 2024). */
export function doublingLevels(step: number, steps: number, s0: number, s1: number): number {
  const period = Math.max(1, Math.floor(steps / (Math.log2(Math.floor(s1 / s0)) + 1)));
  return Math.min(s0 * 2 ** Math.floor(step / period), s1) + 1;
}

/**
 * Probabilities of the pairs (σ_n, σ_{n+1}), n = 0..N−2, of ascending levels under ln σ ~ N(mean, std²):
 * p(n) ∝ erf((ln σ_{n+1} − mean)/(√2 std)) − erf((ln σ_n − mean)/(√2 std)) (Song and Dhariwal 2024, Eq. 10).
 */
export function logNormalPairs(levels: readonly number[], mean: number, std: number): number[] {
  const at = levels.map((sigma) => erf((Math.log(sigma) - mean) / (Math.SQRT2 * std)));
  const weights = at.slice(1).map((value, i) => value - (at[i] as number));
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.map((w) => w / total);
}

/**
 * The lower level of a pair (Geng et al. 2024): r = t·max(0, 1 − (1 + 8/(1 + eᵗ))/q^(stage+1)); 0 stands for the clean image.
 */
export function ectLower(t: number, q: number, stage: number): number {
  return t * Math.max(0, 1 - (1 + 8 / (1 + Math.exp(t))) / q ** (stage + 1));
}

/** The error function, to 1e-15: its series near 0, a continued fraction of 1 − erf beyond. */
export function erf(x: number): number {
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  if (z < 2.5) {
    // 2/√π Σ (−1)ⁿ x^(2n+1)/(n! (2n+1))
    let [term, sum] = [x, x];
    for (let n = 1; n < 80; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  // erfc z = e^(−z²)/√π · 1/(z + (1/2)/(z + 1/(z + (3/2)/(z + …))))
  let fraction = z;
  for (let n = 80; n >= 1; n--) fraction = z + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-z * z) / (Math.sqrt(Math.PI) * fraction));
}
