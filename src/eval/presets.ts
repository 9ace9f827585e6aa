/** Sizes of an evaluation; every flag overrides its part. */
export interface EvaluationPreset {
  /** By defence; `default` for those that are not named, on their own surface. */
  readonly attacks: Readonly<Record<string, string>>;
  readonly count: number;
  readonly subset?: 'paper';
  readonly steps: number;
  /** Default 2.5 eps / steps. */
  readonly stepSize?: 'eps/steps';
  readonly start?: 'image';
  /** In L2. */
  readonly direction?: 'sign';
  readonly keep?: 'last';
  readonly restarts: number;
  readonly queries: number;
  readonly eot: number;
  /** Repetitions of the attack with other seeds. */
  readonly runs: number;
  /** Judgements of each adversarial image by a randomised defence. */
  readonly evaluations: number;
}

/** Two latents and ten iterations: a gradient that CMAP's attacker can afford. */
const short = 'bpda-short:k=2';
const unrolled = 'unroll-short:k=2';

export const evaluationPresets: Readonly<Record<string, EvaluationPreset>> = {
  /** To see whether something is broken: seconds, for CMAP minutes on a GPU and, on two cores, 1.5 an image. */
  quick: {
    attacks: { default: 'fgsm,pgd', cmap: `fgsm,pgd,pgd@surrogate,disruption,pgd@${short}` },
    count: 32,
    steps: 20,
    restarts: 1,
    queries: 200,
    eot: 2,
    runs: 1,
    evaluations: 3,
  },
  standard: {
    attacks: {
      default: 'fgsm,pgd,apgd-ce,apgd-t,square',
      cmap: `fgsm,pgd,pgd@surrogate,apgd-t@surrogate,disruption,target-latent,pgd:eot=2@${short},pgd:eot=2:loss=margin@${unrolled}`,
    },
    count: 128,
    steps: 50,
    restarts: 1,
    queries: 1000,
    eot: 10,
    runs: 1,
    evaluations: 10,
  },
  /** What a claim of robustness needs. */
  full: {
    attacks: {
      default: 'fgsm,pgd,autoattack',
      cmap: `fgsm,pgd,pgd@surrogate,autoattack-rand@surrogate,disruption,target-latent,pgd:restarts=1:eot=4@${short},pgd:restarts=1:eot=4@${unrolled},square:eot=4@bpda-short,pgd:steps=20:restarts=1:eot=2@unroll`,
    },
    count: 1000,
    steps: 100,
    restarts: 5,
    queries: 5000,
    eot: 20,
    runs: 1,
    evaluations: 10,
  },
  /**
   * The released scripts' for CIFAR-10: 500 images, 200 steps of eps/200, of the gradient's signs in L2 too, without a random start,
   * the last iterate, EOT 20, one judgement, 3 runs; CMAP is attacked through one consistency step, by its gradient, by BPDA and by
   * AutoAttack, and by its own attack over 1000 iterations, the defence's among them. Theirs for ImageNet-100 have 100 steps and no
   * AutoAttack; in L2 neither has BPDA.
   */
  paper: {
    attacks: {
      default: 'pgd',
      cmap: 'pgd@surrogate,pgd@surrogate:backward=identity,autoattack@surrogate,disruption:iterations=1000',
    },
    count: 500,
    subset: 'paper',
    steps: 200,
    stepSize: 'eps/steps',
    start: 'image',
    direction: 'sign',
    keep: 'last',
    restarts: 1,
    queries: 5000,
    eot: 20,
    runs: 3,
    evaluations: 1,
  },
};
