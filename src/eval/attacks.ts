/**
 * The attacks that an evaluation can name. This is where a new one plugs in: an entry here, or `registerAttack`; an
 * attack on the inside of a defence also needs a surface there (src/defences). An attack is asked for as
 * `name` or `name@surface`, such as `pgd@classifier` for the transfer attack on a defence that has a better surface.
 */
import { Apgd } from '../attacks/apgd.ts';
import {
  type Attack,
  checkBall,
  checkCount,
  checkSeed,
  defaultStepSize,
  type Norm,
} from '../attacks/attack.ts';
import { AutoAttack } from '../attacks/autoattack.ts';
import { Disruption, latentTau, publishedTau } from '../attacks/disruption.ts';
import { Fab } from '../attacks/fab.ts';
import { Fgsm } from '../attacks/fgsm.ts';
import { LowFrequency } from '../attacks/low-frequency.ts';
import { Noise } from '../attacks/noise.ts';
import { Pgd } from '../attacks/pgd.ts';
import { portfolio } from '../attacks/portfolio.ts';
import { Square } from '../attacks/square.ts';
import { type Eot, once } from '../attacks/target.ts';
import type { AttackSurface, Defence, Knowledge } from '../defences/defence.ts';
import { InputError } from '../engine/errors.ts';

export interface AttackSettings {
  readonly norm: Norm;
  /** In [0, 1] pixel units. */
  readonly eps: number;
  /** Of PGD and APGD; the ensembles keep their published constants. */
  readonly steps: number;
  /** Of PGD; default 2.5 eps / steps (Madry et al. 2018). */
  readonly stepSize?: number | undefined;
  /** Of PGD; default true. */
  readonly randomStart?: boolean;
  readonly restarts: number;
  /** Of Square alone. */
  readonly queries: number;
  /** Of noise; default 10,000. */
  readonly points?: number;
  /** The released code's form of consistency disruption, defects included. */
  readonly compat?: 'official' | undefined;
  /** Draws a gradient where the surface is randomised; elsewhere one. */
  readonly eot: number;
}

/** Settings with what an attack must know besides. */
export interface AttackContext extends AttackSettings {
  readonly seed: number;
  readonly defence: Defence;
  readonly surface: AttackSurface;
}

export interface AttackEntry {
  /** One line for the help. */
  readonly summary: string;
  readonly kind: 'single-step' | 'iterative' | 'black-box' | 'ensemble';
  /** Where it exists for one norm only. */
  readonly norm?: Norm;
  /** Surface it needs, where it is not any. */
  readonly surface?: string;
  /** What it knows, where it looks into the defence by itself; default what its surface does. */
  readonly knowledge?: Knowledge;
  make(context: AttackContext): Attack;
  /** The settings it has, for the record. */
  settings(s: AttackSettings): Record<string, unknown>;
  /** Evaluations of the surface for an image at most, a backward pass counted as one, without EOT. */
  passes(s: AttackSettings, classes: number): number;
}

const draws = ({ surface, eot }: AttackContext): Eot => (surface.target.randomised ? { draws: eot } : once);
const targetClasses = (classes: number) => Math.min(9, classes - 1);
const stepSizeOf = ({ stepSize, eps, steps }: AttackSettings) => stepSize ?? defaultStepSize(eps, steps);

const pointsOf = ({ points = 10000 }: AttackSettings) => points;

const pgdEntry = (summary: string, norm?: Norm): AttackEntry => ({
  summary,
  kind: 'iterative',
  ...(norm ? { norm } : {}),
  make: (c) =>
    new Pgd({
      norm: c.norm,
      eps: c.eps,
      steps: c.steps,
      stepSize: stepSizeOf(c),
      randomStart: c.restarts > 1 || (c.randomStart ?? true),
      restarts: c.restarts,
      keep: 'best',
      seed: c.seed,
      eot: draws(c),
    }),
  settings: (s) => ({
    steps: s.steps,
    stepSize: stepSizeOf(s),
    randomStart: s.restarts > 1 || (s.randomStart ?? true),
    restarts: s.restarts,
    eot: s.eot,
  }),
  passes: (s) => 2 * (s.steps + 1) * s.restarts,
});

const apgdEntry = (loss: 'ce' | 'dlr' | 'targeted', summary: string): AttackEntry => ({
  summary,
  kind: 'iterative',
  make: (c) =>
    new Apgd({
      norm: c.norm,
      eps: c.eps,
      loss,
      steps: c.steps,
      restarts: c.restarts,
      eot: draws(c),
      seed: c.seed,
      targetClasses: targetClasses(c.defence.classes),
    }),
  settings: (s) => ({ steps: s.steps, restarts: s.restarts, eot: s.eot }),
  passes: (s, classes) =>
    2 * (s.steps + 1) * s.restarts * (loss === 'targeted' ? targetClasses(classes) : 1) + 1,
});

/** An attack on the generator of CMAP. */
function disruption(
  { defence, norm, eps, steps, seed }: AttackContext,
  form: 'equation' | 'released' | 'latent',
  tau = 0,
): Disruption {
  const { generator, classifier } = defence;
  const name = form === 'latent' ? 'target-latent' : 'disruption';
  if (!generator)
    throw new InputError(
      `attack ${name} is on the generator of a defence, and ${defence.name} has none; give --defence cmap`,
    );
  const cmap = { ...generator.cmap, seed };
  const all = cmap.iterations + steps;
  return new Disruption(generator.model, classifier, { norm, eps, cmap, steps: all, tau, form });
}

const ensemble = (version: 'standard' | 'rand', summary: string): AttackEntry => ({
  summary,
  kind: 'ensemble',
  make: (c) => new AutoAttack({ norm: c.norm, eps: c.eps, version, seed: c.seed }),
  settings: () => ({ version }),
  // 100 steps of APGD-CE, then of APGD-T and FAB-T for nine classes, then 5000 queries; for rand 2 × 100 × 20 draws.
  passes: (_, classes) =>
    version === 'rand' ? 2 * 2 * 101 * 20 : 2 * 101 * (1 + 2 * targetClasses(classes)) + 5000,
});

const registry = new Map<string, AttackEntry>([
  [
    'fgsm',
    {
      summary: 'one step of the whole radius (Goodfellow et al. 2015)',
      kind: 'single-step',
      make: (c) => new Fgsm({ norm: c.norm, eps: c.eps, seed: c.seed, eot: draws(c) }),
      settings: (s) => ({ eot: s.eot }),
      passes: () => 4,
    },
  ],
  ['pgd', pgdEntry('projected gradient ascent on the cross-entropy (Madry et al. 2018), best iterate kept')],
  ['pgd-l2', pgdEntry('the same with --norm L2', 'L2')],
  [
    'low-frequency',
    {
      summary: 'PGD whose perturbation is constant on blocks of 4 x 4 pixels',
      kind: 'iterative',
      make: (c) =>
        new LowFrequency({
          norm: c.norm,
          eps: c.eps,
          steps: c.steps,
          stepSize: stepSizeOf(c),
          eot: draws(c),
          seed: c.seed,
        }),
      settings: (s) => ({ block: 4, steps: s.steps, stepSize: stepSizeOf(s), eot: s.eot }),
      passes: (s) => 2 * (s.steps + 1),
    },
  ],
  [
    'noise',
    {
      summary: 'the best of 10,000 uniformly random points of the ball',
      kind: 'black-box',
      make: (c) => new Noise({ norm: c.norm, eps: c.eps, points: pointsOf(c), eot: draws(c), seed: c.seed }),
      settings: (s) => ({ points: pointsOf(s), eot: s.eot }),
      passes: (s) => pointsOf(s) + 2,
    },
  ],
  ['apgd-ce', apgdEntry('ce', 'AutoAttack’s step-size rule on the cross-entropy')],
  ['apgd-dlr', apgdEntry('dlr', 'on the difference-of-logits ratio')],
  ['apgd-t', apgdEntry('targeted', 'on the targeted ratio, for up to nine classes')],
  [
    'fab-t',
    {
      summary: 'smallest perturbation across nine boundaries (Croce & Hein 2020)',
      kind: 'iterative',
      make: (c) =>
        new Fab({
          norm: c.norm,
          eps: c.eps,
          targeted: true,
          steps: c.steps,
          restarts: c.restarts,
          seed: c.seed,
          targetClasses: targetClasses(c.defence.classes),
        }),
      settings: (s) => ({ steps: s.steps, restarts: s.restarts }),
      passes: (s, classes) => 2 * s.steps * s.restarts * targetClasses(classes) + 1,
    },
  ],
  [
    'square',
    {
      summary: 'random search on the scores alone (Andriushchenko et al. 2020)',
      kind: 'black-box',
      make: (c) => new Square({ norm: c.norm, eps: c.eps, queries: c.queries, seed: c.seed, eot: draws(c) }),
      settings: (s) => ({ queries: s.queries, eot: s.eot }),
      passes: (s) => s.queries + 1,
    },
  ],
  [
    'disruption',
    {
      summary:
        'consistency disruption, CMAP’s own adaptive attack (Eq. 15): --steps after the defence’s iterations',
      kind: 'iterative',
      knowledge: 'adaptive',
      make: (c) => disruption(c, c.compat ? 'released' : 'equation', publishedTau[c.norm]),
      settings: ({ steps, norm, compat }) => ({
        steps,
        tau: publishedTau[norm],
        ...(compat ? { compat } : {}),
      }),
      passes: (s) => 2 * s.steps,
    },
  ],
  [
    'target-latent',
    {
      summary:
        'latents of CMAP whose own image is misclassified and near, then projected: --steps after the defence’s',
      kind: 'iterative',
      knowledge: 'adaptive',
      make: (c) => disruption(c, 'latent', latentTau),
      settings: ({ steps }) => ({ steps, tau: latentTau }),
      passes: (s) => 2 * s.steps,
    },
  ],
  [
    'portfolio',
    {
      summary: 'noise, FGSM, PGD, low frequencies, APGD-T, FAB-T, Square, each on what is left',
      kind: 'ensemble',
      make: (c) =>
        portfolio({
          norm: c.norm,
          eps: c.eps,
          steps: c.steps,
          queries: c.queries,
          eot: draws(c),
          seed: c.seed,
          targetClasses: targetClasses(c.defence.classes),
        }),
      settings: (s) => ({ steps: s.steps, queries: s.queries, points: 100, eot: s.eot }),
      passes: (s, classes) =>
        100 + 4 + 2 * (s.steps + 1) * (3 + 2 * targetClasses(classes)) + s.queries + 8 * 4,
    },
  ],
  ['autoattack', ensemble('standard', 'APGD-CE, APGD-T, FAB-T, Square with their published constants')],
  [
    'autoattack-rand',
    ensemble('rand', 'APGD-CE and APGD-DLR with 20 draws a gradient, for randomised surfaces'),
  ],
]);

/** Adds an attack to those that can be named; the name must be free and hold no comma, at sign or blank. */
export function registerAttack(name: string, entry: AttackEntry): void {
  if (registry.has(name) || name === 'none' || !/^[\w.-]+$/.test(name))
    throw new RangeError(`attack "${name}" cannot be registered`);
  registry.set(name, entry);
}

/** Name and summary of each. */
export function listAttacks(): [string, string][] {
  return [...registry].map(([name, { summary }]) => [name, summary]);
}

/** An attack on one surface of one defence. */
export interface PlannedAttack {
  /** As it was asked for: the key of records and tables. */
  readonly id: string;
  readonly kind: AttackEntry['kind'] | 'none';
  readonly surface: string;
  readonly knowledge: Knowledge;
  readonly settings: Readonly<Record<string, unknown>>;
  /** Evaluations of the surface an image, at most. */
  readonly passes: number;
  /** With other settings than planned, for sanity checks. Null for `none`. */
  make(seed: number, other?: Partial<AttackSettings>): Attack | null;
}

/** The null attack: images as they are. */
export const noAttack: PlannedAttack = {
  id: 'none',
  kind: 'none',
  surface: '',
  knowledge: 'adaptive',
  settings: {},
  passes: 0,
  make: () => null,
};

/** The names of a comma list without empty ones and repetitions. */
export function splitAttacks(list: string): string[] {
  const names = list.split(',').map((name) => name.trim());
  if (names.some((name) => name === ''))
    throw new InputError(`--attack "${list}": an empty name; give a comma list such as none,pgd`);
  return [...new Set(names)];
}

/** The norm that all named attacks exist for, or undefined when any will do. */
export function normOf(names: readonly string[]): Norm | undefined {
  return names.map((name) => registry.get(name.split('@')[0] as string)?.norm).find((norm) => norm);
}

/**
 * Checks names and settings against a defence before anything runs; `none` always comes first.
 * @throws InputError naming what does not fit, and the way out
 */
export function planAttacks(
  names: readonly string[],
  settings: AttackSettings,
  defence: Defence,
): PlannedAttack[] {
  const { norm, eps, steps, restarts, queries, eot } = settings;
  checkBall(norm, eps);
  for (const [name, value] of Object.entries({ steps, restarts, queries, eot })) checkCount(name, value);
  const planned = names
    .filter((id) => id !== 'none')
    .map((id): PlannedAttack => {
      const [name, asked, ...more] = id.split('@') as [string, ...string[]];
      const entry = registry.get(name);
      if (!entry)
        throw new InputError(
          `attack "${name}" is not known; there are none, ${[...registry.keys()].join(', ')}`,
        );
      if (entry.norm && entry.norm !== norm)
        throw new InputError(
          `attack ${name} is for ${entry.norm}, this evaluation for ${norm}: one run has one threat model; give --norm ${entry.norm} with its --eps and a DIR of its own`,
        );
      const surface = asked ?? entry.surface ?? defence.surface;
      const found = defence.surfaces[surface];
      if (!found || more.length > 0)
        throw new InputError(
          `attack "${id}": the defence ${defence.name} has no surface "${[surface, ...more].join('@')}"; it has ${Object.keys(defence.surfaces).join(', ')}`,
        );
      const make = (seed: number, other: Partial<AttackSettings> = {}) => {
        checkSeed(seed);
        return entry.make({ ...settings, ...other, seed, defence, surface: found });
      };
      make(0); // refuses settings that do not fit
      const often = found.target.randomised && name !== 'autoattack-rand' ? eot : 1;
      return {
        id,
        kind: entry.kind,
        surface,
        knowledge: entry.knowledge ?? found.knowledge,
        settings: entry.settings({ ...settings, eot: found.target.randomised ? eot : 1 }),
        passes: entry.passes(settings, defence.classes) * often * (found.cost ?? 1),
        make,
      };
    });
  return [noAttack, ...planned];
}
