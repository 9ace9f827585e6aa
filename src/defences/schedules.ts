/**
 * Noise levels of variance-preserving diffusions as σ = √((1−ᾱ)/ᾱ), the standard deviation of the noise once the
 * image is scaled back to its own size. In u = x/√ᾱ = y + σn the steps of every schedule are the same.
 */

/** β at both ends of the VP-SDE (Song et al. 2021, Eq. 32), t in [0, 1]. */
const vp = { first: 0.1, last: 20 };

export const vpBeta = (t: number) => vp.first + t * (vp.last - vp.first);

/** σ at time t: 1 + σ² = exp(∫β), ∫β = β_0 t + (β_1 − β_0) t²/2. */
export function vpSigma(t: number): number {
  return Math.sqrt(Math.expm1(vp.first * t + 0.5 * (vp.last - vp.first) * t * t));
}

/** The time at which the VP-SDE has the level σ. */
export function vpTime(sigma: number): number {
  const slope = vp.last - vp.first;
  const total = Math.log1p(sigma * sigma);
  // The root that stays exact for small σ.
  return (2 * total) / (vp.first + Math.sqrt(vp.first ** 2 + 2 * slope * total));
}

/** σ after 1, 2, … steps: ᾱ_t = Π_{i<t} (1 − β_i). */
function levelsOf(betas: readonly number[]): number[] {
  let kept = 1;
  return betas.map((beta) => {
    kept *= 1 - beta;
    return Math.sqrt((1 - kept) / kept);
  });
}

/** DDPM (Ho et al. 2020): β from 1e-4 to 0.02 in `count` equal steps. */
export function linearLevels(count: number): number[] {
  const scale = 1000 / count;
  return levelsOf(
    Array.from({ length: count }, (_, i) => scale * (1e-4 + (i / (count - 1)) * (0.02 - 1e-4))),
  );
}

/** Nichol & Dhariwal 2021: ᾱ = cos²((t + 0.008)/1.008 · π/2), β at most 0.999. */
export function cosineLevels(count: number): number[] {
  const kept = (t: number) => Math.cos((((t + 0.008) / 1.008) * Math.PI) / 2) ** 2;
  return levelsOf(
    Array.from({ length: count }, (_, i) => Math.min(1 - kept((i + 1) / count) / kept(i / count), 0.999)),
  );
}

const ddpm = linearLevels(1000);

/** σ of DDPM after `t` of 1000 steps; 0 at 0. */
export const ddpmSigma = (t: number) => (t === 0 ? 0 : (ddpm[t - 1] as number));

/** t, …, 0 in `steps` nearly equal parts, whole numbers. @returns steps + 1 times */
export function ladder(t: number, steps: number): number[] {
  return Array.from({ length: steps + 1 }, (_, j) => Math.round(t * (1 - j / steps)));
}
