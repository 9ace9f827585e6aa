import { InputError } from '../engine/errors.ts';
import type { Distance } from './objective.ts';

/** Hyper-parameters of CMAP, in the paper's names. */
export interface CmapOptions {
  /** Latent vectors an image, K; at least 2 (their standard deviation is part of the objective). */
  readonly k: number;
  readonly iterations: number;
  /** Adam's step size on the latents, whose standard deviation is σ_max = 80. */
  readonly lr: number;
  /** Weight of SSIM against MAE (Eq. 10). */
  readonly alpha: number;
  /** Weight of the latent constraint (Eq. 9). */
  readonly lambda: number;
  readonly betas: readonly [number, number];
  /** A variant's, in place of MAE − α SSIM (alpha is then unused); attacks through the defence take it, too. */
  readonly distance?: Distance;
  /** Seeds the latents. Same seed, same image, same adapter: same result. */
  readonly seed: number;
}

/** The released scripts' values for CIFAR-10. */
export const paperCifar10: CmapOptions = {
  k: 10,
  iterations: 200,
  lr: 2,
  alpha: 2,
  lambda: 5e-4,
  betas: [0.9, 0.99],
  seed: 1234,
};

/** The released scripts' values for ImageNet-100 at 64×64. */
export const paperImageNet100: CmapOptions = {
  ...paperCifar10,
  k: 5,
  iterations: 300,
  alpha: 0.5,
  lambda: 2e-4,
};

/** Whether it is finite on the device. */
const fits = (value: number) => Number.isFinite(Math.fround(value));

/** @throws InputError naming the field, its value and its range */
export function checkCmapOptions(o: CmapOptions): void {
  const rules: [keyof CmapOptions, boolean, string][] = [
    [
      'k',
      Number.isInteger(o.k) && o.k >= 2,
      'an integer of at least 2 (the spread of the latents needs two)',
    ],
    [
      'iterations',
      Number.isInteger(o.iterations) && o.iterations >= 1 && o.iterations <= 1e6,
      'a positive integer to 1000000',
    ],
    ['lr', fits(o.lr) && o.lr > 0, 'a positive number of f32'],
    ['alpha', fits(o.alpha) && o.alpha >= 0, 'a number of f32 of at least 0'],
    ['lambda', fits(o.lambda) && o.lambda >= 0, 'a number of f32 of at least 0'],
    ['betas', o.betas.length === 2 && o.betas.every((b) => b >= 0 && b < 1), 'two numbers in [0, 1)'],
    [
      'seed',
      Number.isInteger(o.seed) && o.seed >= 0 && o.seed <= Number.MAX_SAFE_INTEGER,
      'a non-negative integer to 2^53 - 1',
    ],
  ];
  for (const [name, ok, rule] of rules) {
    if (!ok) throw new InputError(`${name} must be ${rule}, got ${o[name]}`);
  }
}
