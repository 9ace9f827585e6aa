/** Sizes of an evaluation; every flag overrides its part. */
export interface EvaluationPreset {
  readonly attacks: string;
  readonly count: number;
  readonly subset?: 'paper';
  readonly steps: number;
  /** Default 2.5 eps / steps. */
  readonly stepSize?: 'eps/steps';
  readonly randomStart?: boolean;
  readonly restarts: number;
  readonly queries: number;
  readonly eot: number;
  /** Repetitions of the attack with other seeds. */
  readonly runs: number;
  /** Judgements of each adversarial image by a randomised defence. */
  readonly evaluations: number;
}

export const evaluationPresets: Readonly<Record<string, EvaluationPreset>> = {
  /** Minutes: to see whether something is broken. */
  quick: {
    attacks: 'fgsm,pgd',
    count: 32,
    steps: 20,
    restarts: 1,
    queries: 200,
    eot: 2,
    runs: 1,
    evaluations: 3,
  },
  standard: {
    attacks: 'fgsm,pgd,apgd-ce,apgd-t,square',
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
    attacks: 'fgsm,pgd,autoattack',
    count: 1000,
    steps: 100,
    restarts: 5,
    queries: 5000,
    eot: 20,
    runs: 1,
    evaluations: 10,
  },
  /** The released scripts': 500 images, 200 steps of eps/200 without a random start, EOT 20, one judgement, 3 runs. */
  paper: {
    attacks: 'pgd',
    count: 500,
    subset: 'paper',
    steps: 200,
    stepSize: 'eps/steps',
    randomStart: false,
    restarts: 1,
    queries: 5000,
    eot: 20,
    runs: 3,
    evaluations: 1,
  },
};
