/**
 * The attacks that an evaluation can name. This is where a new one plugs in: an entry here, or `registerAttack`; an
 * attack on the inside of a defence also needs a surface there (src/defences). An attack is asked for as
 * NAME[:KEY=VALUE…][@SURFACE[:KEY=VALUE…]], such as `pgd@classifier` for the transfer attack on a defence that has a better
 * surface, or `pgd:loss=margin:eot=4@unroll:last=10`. What a specification leaves open the evaluation's settings give.
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
import {
  AutoAttack,
  type AutoAttackName,
  autoAttackNames,
  autoAttackVersions,
} from '../attacks/autoattack.ts';
import { type CandidateJudge, Disruption, latentTau, publishedTau } from '../attacks/disruption.ts';
import { Fab } from '../attacks/fab.ts';
import { Fgsm } from '../attacks/fgsm.ts';
import { attackLoss, type LossName, lossNames } from '../attacks/losses.ts';
import { checkBlocks, LowFrequency, usualBlock } from '../attacks/low-frequency.ts';
import { Noise } from '../attacks/noise.ts';
import { Pgd } from '../attacks/pgd.ts';
import { portfolio } from '../attacks/portfolio.ts';
import { type Eot, once } from '../attacks/query.ts';
import { parseSpec, type Reader, readCount, readOneOf, readOptions, readPositive } from '../attacks/spec.ts';
import { Square } from '../attacks/square.ts';
import type { AttackSurface, Defence, Knowledge } from '../defences/defence.ts';
import { InputError } from '../engine/errors.ts';
import { Replay } from './replay.ts';
import type { AttackConfig } from './store.ts';

/** Of a targeted attack: the most or least likely other class by the bare classifier, any other, or a class. */
export type TargetRule = 'next' | 'least' | 'random' | number;

/** Settings of attacks; each takes those that its entry names. */
export interface AttackSettings {
  readonly norm: Norm;
  /** In [0, 1] pixel units. */
  readonly eps: number;
  /** Of the ensembles, published constants hold. */
  readonly steps: number;
  /** Default 2.5 eps / steps (Madry et al. 2018); `eps/steps` as the paper's code. */
  readonly stepSize?: number | 'eps/steps' | undefined;
  /** Of PGD in L2: steps along the gradient, or along its signs as the paper's code takes them; default gradient. */
  readonly direction?: 'gradient' | 'sign' | undefined;
  /** Of PGD: the iterate that is returned, that of highest loss (a success first) or the last, as the paper's code; default best. */
  readonly keep?: 'best' | 'last' | undefined;
  /** Default random; several restarts are random. */
  readonly start?: 'random' | 'image' | undefined;
  readonly restarts: number;
  readonly queries: number;
  /** Default 10,000. */
  readonly points?: number;
  /** Default ce. */
  readonly loss?: LossName;
  /** Default untargeted. */
  readonly target?: TargetRule;
  /** Side of the squares of a low-frequency perturbation; default 4. */
  readonly block?: number;
  /** Draws a gradient where the surface is randomised; elsewhere one. */
  readonly eot: number;
  /** Average the gradients of so many draws of lowest loss; default all. */
  readonly worst?: number;
  /** Of draws: default fresh. With known ones the attacker has the seeds of the judgements. */
  readonly randomness?: 'fresh' | 'fixed' | 'known';
  /** All draws, or the last alone, decide whether a point is a success; default all. */
  readonly judge?: 'all' | 'last';
  /** Of AutoAttack; default standard. */
  readonly version?: (typeof autoAttackVersions)[number];
  /** Of AutoAttack version custom. */
  readonly attacks?: readonly AutoAttackName[];
  /** How often AutoAttack shows a candidate to a randomised target; default 1, as published. */
  readonly evaluations?: number;
  /** Of consistency disruption: `steps` counted with those of the defence before them. */
  readonly iterations?: number;
  /** Weight of the class term of consistency disruption; default published. */
  readonly tau?: number;
  /** Who chooses among the candidates of consistency disruption; default the defence. */
  readonly select?: 'defence' | 'classifier';
  /** The released code's form of consistency disruption, defects included. */
  readonly compat?: 'official' | undefined;
  /** Folder of the evaluation whose images are taken. */
  readonly from?: string;
}

/** Settings as text: keys of a specification, and what reads them. */
const options = {
  steps: ['steps', readCount],
  'step-size': ['stepSize', readPositive],
  direction: ['direction', readOneOf('gradient', 'sign')],
  keep: ['keep', readOneOf('best', 'last')],
  start: ['start', readOneOf('random', 'image')],
  restarts: ['restarts', readCount],
  queries: ['queries', readCount],
  points: ['points', readCount],
  loss: ['loss', readOneOf(...lossNames.filter((name) => name !== 'difference'))],
  target: [
    'target',
    (text, key) => (/^\d+$/.test(text) ? Number(text) : readOneOf('next', 'least', 'random')(text, key)),
  ],
  block: ['block', readCount],
  eot: ['eot', readCount],
  worst: ['worst', readCount],
  randomness: ['randomness', readOneOf('fresh', 'fixed', 'known')],
  judge: ['judge', readOneOf('all', 'last')],
  version: ['version', readOneOf(...autoAttackVersions)],
  attacks: [
    'attacks',
    (text, key) => [...new Set(text.split('+').map((name) => readOneOf(...autoAttackNames)(name, key)))],
  ],
  evaluations: ['evaluations', readCount],
  iterations: ['iterations', readCount],
  tau: ['tau', readPositive],
  select: ['select', readOneOf('defence', 'classifier')],
  compat: ['compat', readOneOf('official')],
  from: ['from', (text) => text],
} satisfies Record<string, readonly [keyof AttackSettings, Reader<unknown>]>;

type OptionName = keyof typeof options;

/** Settings with what an attack must know besides. */
export interface AttackContext extends AttackSettings {
  readonly seed: number;
  readonly defence: Defence;
  readonly surface: AttackSurface;
  /** Of the judgements to come. */
  readonly judgeSeeds: readonly number[];
}

export interface AttackEntry {
  /** One line for the help. */
  readonly summary: string;
  readonly kind: 'single-step' | 'iterative' | 'black-box' | 'ensemble' | 'transfer';
  /** Where it exists for one norm only. */
  readonly norm?: Norm;
  /** What it knows, where it looks into the defence by itself; default what its surface does. */
  readonly knowledge?: Knowledge;
  /** Settings that it takes besides norm and eps. */
  readonly options: readonly OptionName[];
  /** What it makes of settings that were left open. */
  readonly defaults?:
    | Partial<AttackSettings>
    | ((s: AttackSettings, defence: Defence) => Partial<AttackSettings>);
  make(context: AttackContext): Attack;
  /** Refuses images that it cannot attack, by their numbers in the test set or their size. @throws InputError */
  checkImages?(s: AttackSettings, ids: readonly number[], height: number, width: number): void;
  /** Evaluations of the surface for an image at most, a backward pass counted as one. */
  passes(s: AttackSettings, defence: Defence): number;
  /** Evaluations of the defence's own network besides. */
  inside?(s: AttackSettings, defence: Defence): number;
}

const draws = (c: AttackContext): Eot => {
  const { surface, eot, worst, randomness = 'fresh', judge = 'all' } = c;
  if (!surface.target.randomised) return once;
  return {
    draws: eot,
    reduction: worst === undefined ? 'mean' : { worst },
    randomness: randomness === 'known' ? { seeds: c.judgeSeeds } : randomness,
    judge,
  };
};
const eotOptions = ['eot', 'worst', 'randomness', 'judge'] as const;
const targetClasses = ({ classes }: Defence) => Math.min(9, classes - 1);
const stepDefaults = ({ norm, stepSize, eps, steps }: AttackSettings) => ({
  stepSize: stepSize === 'eps/steps' ? eps / steps : (stepSize ?? defaultStepSize(norm, eps, steps)),
});

const pgdEntry = (summary: string, norm?: Norm): AttackEntry => ({
  summary,
  kind: 'iterative',
  norm,
  options: ['steps', 'step-size', 'direction', 'start', 'restarts', 'keep', 'loss', 'target', ...eotOptions],
  defaults: (s) => ({
    ...stepDefaults(s),
    direction: s.norm === 'L2' ? (s.direction ?? 'gradient') : undefined,
    start: s.restarts > 1 ? 'random' : (s.start ?? 'random'),
    keep: s.restarts > 1 ? 'best' : (s.keep ?? 'best'),
    loss: s.loss ?? 'ce',
  }),
  make: (c) =>
    new Pgd({
      norm: c.norm,
      eps: c.eps,
      steps: c.steps,
      stepSize: c.stepSize as number,
      direction: c.direction,
      randomStart: c.start === 'random',
      restarts: c.restarts,
      loss: c.loss as LossName,
      targeted: c.target !== undefined,
      keep: c.keep as 'best' | 'last',
      seed: c.seed,
      eot: draws(c),
    }),
  passes: (s) => 2 * (s.steps + 1) * s.restarts * s.eot,
});

const apgdEntry = (loss: 'ce' | 'dlr' | 'targeted', summary: string): AttackEntry => ({
  summary,
  kind: 'iterative',
  options: ['steps', 'restarts', ...eotOptions],
  make: (c) =>
    new Apgd({
      norm: c.norm,
      eps: c.eps,
      loss,
      steps: c.steps,
      restarts: c.restarts,
      eot: draws(c),
      seed: c.seed,
      targetClasses: targetClasses(c.defence),
    }),
  passes: (s, defence) =>
    s.eot * (2 * (s.steps + 1) * s.restarts * (loss === 'targeted' ? targetClasses(defence) : 1) + 1),
});

/** The attacker's own judgements; seeds of attacks and of judgements are below 2^41. */
const ownJudge =
  (defence: Defence, seed: number): CandidateJudge =>
  async (x, labels, imageIds, round) => {
    const { votes, purified } = await defence.judge(x, { seed: seed + 2 ** 41 + round, imageIds });
    purified?.dispose();
    // The share of the votes that are wrong tells more than the label.
    return votes.map(({ votes: each, label }, i) => {
      const all = each.reduce((a, b) => a + b, 0);
      const share = 1 - (each[labels[i] as number] as number) / all;
      return (label === labels[i] ? 0 : 0.5) + share / 2;
    });
  };

/** An attack on the generator of CMAP. */
function disruption(c: AttackContext, form: 'equation' | 'released' | 'latent'): Disruption {
  const { defence, norm, eps, steps, seed, tau, select } = c;
  const { generator, classifier } = defence;
  const name = form === 'latent' ? 'target-latent' : 'disruption';
  if (!generator)
    throw new InputError(
      `attack ${name} is on the generator of a defence, and ${defence.name} has none; give --defence cmap`,
    );
  const cmap = { ...generator.cmap, seed };
  const all = cmap.iterations + steps;
  if (c.iterations !== undefined && c.iterations !== all)
    throw new InputError(
      `attack ${name}: ${c.iterations} iterations are not ${steps} steps after the defence's ${cmap.iterations}; give steps or iterations, more than ${cmap.iterations}`,
    );
  return new Disruption(generator.model, classifier, {
    ...{ norm, eps, cmap, steps: all, tau: tau as number, form },
    ...(select === 'defence' ? { judge: ownJudge(defence, seed) } : {}),
  });
}

/** K latents through the defence's iterations and the attack's, and a judgement of each candidate. */
const disruptionPasses = (s: AttackSettings, { generator, passes }: Defence) => {
  const { k = 1, iterations = 0 } = generator?.cmap ?? {};
  return 2 * k * (iterations + s.steps) + k + (s.select === 'defence' ? k * passes : 0);
};

/** `iterations` in all are so many steps after the defence's. */
const stepsWithin = ({ iterations, steps }: AttackSettings, { generator }: Defence) => ({
  steps: iterations === undefined ? steps : Math.max(1, iterations - (generator?.cmap.iterations ?? 0)),
});

const autoAttack = (s: AttackSettings, seed: number) =>
  new AutoAttack({
    norm: s.norm,
    eps: s.eps,
    version: s.version,
    attacks: s.attacks,
    eot: { draws: s.eot, judge: 'last' },
    evaluations: s.evaluations ?? 1,
    seed,
  });

/** Of a member of AutoAttack, by its own constants. */
function memberPasses(member: Attack, { classes }: Defence): number {
  if (member instanceof Apgd) {
    const { loss, steps, restarts, eot } = member.options;
    const wanted = loss === 'targeted' ? Math.min(member.options.targetClasses, classes - 1) : 1;
    return 2 * (steps + 1) * restarts * wanted * eot.draws;
  }
  if (member instanceof Fab) {
    const { steps, restarts, targeted: one } = member.options;
    const wanted = Math.min(member.options.targetClasses, classes - 1);
    return steps * restarts * (one ? 2 * wanted : 2 * classes + 1);
  }
  return member instanceof Square ? member.options.queries * member.options.restarts : 0;
}

const ensemble = (version: 'standard' | 'rand', summary: string): AttackEntry => ({
  summary,
  kind: 'ensemble',
  options: version === 'rand' ? ['eot', 'evaluations'] : ['version', 'attacks', 'eot', 'evaluations'],
  defaults: (s) => {
    const own = version === 'rand' ? version : (s.version ?? version);
    // As published, whatever the evaluation's --eot is; more draws are asked for by name.
    return { version: own, evaluations: s.evaluations ?? 1, eot: own === 'rand' ? 20 : 1 };
  },
  make: (c) => autoAttack(c, c.seed),
  passes: (s, defence) => {
    const { attacks: members } = autoAttack(s, 0);
    const shown = (s.evaluations ?? 1) * (members.length + 2);
    return members.reduce((sum, member) => sum + memberPasses(member, defence), shown);
  },
});

const registry = new Map<string, AttackEntry>([
  [
    'fgsm',
    {
      summary: 'one step of the whole radius (Goodfellow et al. 2015)',
      kind: 'single-step',
      options: ['loss', 'target', ...eotOptions],
      defaults: { loss: 'ce' },
      make: (c) => {
        const loss = c.loss as LossName;
        const targeted = c.target !== undefined;
        return new Fgsm({ norm: c.norm, eps: c.eps, loss, targeted, seed: c.seed, eot: draws(c) });
      },
      passes: (s) => 4 * s.eot,
    },
  ],
  ['pgd', pgdEntry('projected gradient ascent on the cross-entropy (Madry et al. 2018), best iterate kept')],
  ['pgd-l2', pgdEntry('the same with --norm L2', 'L2')],
  [
    'low-frequency',
    {
      summary: 'PGD whose perturbation is constant on blocks of 4 x 4 pixels',
      kind: 'iterative',
      options: ['block', 'steps', 'step-size', 'loss', ...eotOptions],
      defaults: (s) => ({ ...stepDefaults(s), block: s.block ?? usualBlock, loss: s.loss ?? 'ce' }),
      make: (c) =>
        new LowFrequency({
          norm: c.norm,
          eps: c.eps,
          block: c.block as number,
          steps: c.steps,
          stepSize: c.stepSize as number,
          loss: c.loss as LossName,
          eot: draws(c),
          seed: c.seed,
        }),
      checkImages: (s, _, height, width) => checkBlocks(s.block as number, height, width),
      passes: (s) => 2 * (s.steps + 1) * s.eot,
    },
  ],
  [
    'noise',
    {
      summary: 'the best of 10,000 uniformly random points of the ball',
      kind: 'black-box',
      options: ['points', 'eot'],
      defaults: ({ points = 10000 }) => ({ points }),
      make: (c) =>
        new Noise({ norm: c.norm, eps: c.eps, points: c.points as number, eot: draws(c), seed: c.seed }),
      passes: (s) => ((s.points as number) + 2) * s.eot,
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
      options: ['steps', 'restarts'],
      make: (c) =>
        new Fab({
          norm: c.norm,
          eps: c.eps,
          targeted: true,
          steps: c.steps,
          restarts: c.restarts,
          seed: c.seed,
          targetClasses: targetClasses(c.defence),
        }),
      passes: (s, defence) => 2 * s.steps * s.restarts * targetClasses(defence) + 1,
    },
  ],
  [
    'square',
    {
      summary: 'random search on the scores alone (Andriushchenko et al. 2020)',
      kind: 'black-box',
      options: ['queries', 'restarts', 'eot', 'randomness'],
      defaults: { restarts: 1 },
      make: (c) =>
        new Square({
          norm: c.norm,
          eps: c.eps,
          queries: c.queries,
          restarts: c.restarts,
          seed: c.seed,
          eot: draws(c),
        }),
      passes: (s) => (s.queries + 1) * s.restarts * s.eot,
    },
  ],
  [
    'disruption',
    {
      summary:
        'consistency disruption, CMAP’s own adaptive attack (Eq. 15): --steps after the defence’s iterations',
      kind: 'iterative',
      knowledge: 'adaptive',
      options: ['steps', 'iterations', 'tau', 'select', 'compat'],
      // The released code has the bare classifier alone.
      defaults: (s, defence) => ({
        ...stepsWithin(s, defence),
        tau: s.tau ?? publishedTau(s.norm, defence.generator?.model.imageShape[0] ?? 0),
        select: s.select ?? (s.compat ? 'classifier' : 'defence'),
      }),
      make: (c) => disruption(c, c.compat ? 'released' : 'equation'),
      passes: () => 0,
      inside: disruptionPasses,
    },
  ],
  [
    'target-latent',
    {
      summary:
        'latents of CMAP whose own image is misclassified and near, then projected: --steps after the defence’s',
      kind: 'iterative',
      knowledge: 'adaptive',
      options: ['steps', 'iterations', 'tau', 'select'],
      defaults: (s, defence) => ({
        ...stepsWithin(s, defence),
        tau: s.tau ?? latentTau,
        select: s.select ?? 'defence',
      }),
      make: (c) => disruption(c, 'latent'),
      passes: () => 0,
      inside: disruptionPasses,
    },
  ],
  [
    'portfolio',
    {
      summary: 'noise, FGSM, PGD, low frequencies, APGD-T, FAB-T, Square, each on what is left',
      kind: 'ensemble',
      options: ['steps', 'queries', 'points', 'evaluations', ...eotOptions],
      defaults: ({ points = 100 }) => ({ points }),
      make: (c) =>
        portfolio({
          norm: c.norm,
          eps: c.eps,
          steps: c.steps,
          queries: c.queries,
          points: c.points as number,
          evaluations: c.evaluations,
          eot: draws(c),
          seed: c.seed,
          targetClasses: targetClasses(c.defence),
        }),
      checkImages: ({ norm }, _, height, width) => {
        if (norm !== 'L1' && (height % usualBlock > 0 || width % usualBlock > 0))
          throw new InputError(
            `attack portfolio: its low frequencies are blocks of ${usualBlock}x${usualBlock}, images of ${height}x${width} are not made of them; name its other attacks one by one`,
          );
      },
      passes: (s, defence) => {
        const gradients = 2 * (s.steps + 1) * (3 + 2 * targetClasses(defence));
        return (s.points as number) + s.eot * (4 + gradients + s.queries) + 8 * (s.evaluations ?? 4);
      },
    },
  ],
  ['autoattack', ensemble('standard', 'APGD-CE, APGD-T, FAB-T, Square with their published constants')],
  [
    'autoattack-rand',
    ensemble('rand', 'APGD-CE and APGD-DLR with 20 draws a gradient, for randomised surfaces'),
  ],
  [
    'transfer',
    {
      summary: 'from=DIR: of each image the worst that another evaluation found, whatever defence it had',
      kind: 'transfer',
      knowledge: 'transfer',
      options: ['from'],
      make: (c) => new Replay(c.from, c.norm, c.eps),
      checkImages: (s, ids) => new Replay(s.from, s.norm, s.eps).checkImages(ids),
      passes: () => 1,
    },
  ],
]);

/** Adds an attack to those that can be named; the name must be free and hold no comma, colon, at sign or blank. */
export function registerAttack(name: string, entry: AttackEntry): void {
  if (registry.has(name) || name === 'none' || !/^[\w.-]+$/.test(name))
    throw new RangeError(`attack "${name}" cannot be registered`);
  registry.set(name, entry);
}

/** Name, summary and options of each. */
export function listAttacks(): [string, string, readonly string[]][] {
  return [...registry].map(([name, entry]) => [name, entry.summary, entry.options]);
}

/** An attack on one surface of one defence. */
export interface PlannedAttack {
  /** As it was asked for: the key of records and tables. */
  readonly id: string;
  readonly kind: AttackEntry['kind'] | 'none';
  readonly surface: string;
  readonly on: AttackSurface | null;
  readonly knowledge: Knowledge;
  /** All that it takes, as it was resolved. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** Evaluations of the surface an image, at most, and of the defence's own network besides. */
  readonly passes: number;
  readonly inside: number;
  /** Refuses images that it cannot attack. @throws InputError */
  checkImages(ids: readonly number[], height: number, width: number): void;
  /** @param other settings than planned, for sanity checks. @returns null for `none` */
  make(seed: number, judgeSeeds: readonly number[], other?: Partial<AttackSettings>): Attack | null;
}

/** The null attack: images as they are. */
export const noAttack: PlannedAttack = {
  id: 'none',
  kind: 'none',
  surface: '',
  on: null,
  knowledge: 'adaptive',
  settings: {},
  passes: 0,
  inside: 0,
  checkImages: () => {},
  make: () => null,
};

/** What identifies an attack in config.json. @param batch where results depend on it */
export const attackConfig = (
  { kind, surface, on, knowledge, settings }: PlannedAttack,
  batch: number,
): AttackConfig => ({
  ...{ kind, surface, knowledge },
  settings: settings.compat === undefined ? settings : { ...settings, batch },
  ...(on?.settings ? { surfaceSettings: on.settings } : {}),
});

/** The names of a comma list without empty ones and repetitions. */
export function splitAttacks(list: string): string[] {
  const names = list.split(',').map((name) => name.trim());
  if (names.some((name) => name === ''))
    throw new InputError(`--attack "${list}": an empty name; give a comma list such as none,pgd`);
  return [...new Set(names)];
}

/** The norm that all named attacks exist for, or undefined when any will do. */
export function normOf(names: readonly string[]): Norm | undefined {
  return names.map((name) => registry.get(parseSpec(name).name)?.norm).find((norm) => norm);
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
  return [noAttack, ...names.filter((id) => id !== 'none').map((id) => planAttack(id, settings, defence))];
}

function planAttack(id: string, given: AttackSettings, defence: Defence): PlannedAttack {
  const spec = parseSpec(id);
  const { name } = spec;
  const entry = registry.get(name);
  if (!entry)
    throw new InputError(`attack "${name}" is not known; there are none, ${[...registry.keys()].join(', ')}`);
  if (entry.norm && entry.norm !== given.norm)
    throw new InputError(
      `attack ${name} is for ${entry.norm}, this evaluation for ${given.norm}: one run has one threat model; give --norm ${entry.norm} with its --eps and a DIR of its own`,
    );
  const surface = spec.surface ?? defence.surface;
  const on = surfaceWith(defence, surface, spec.surfaceOptions, id);
  const readers = Object.fromEntries(entry.options.map((key) => [key, options[key][1] as Reader<unknown>]));
  const own = readOptions(spec.options, readers, `attack ${name}`);
  if (name === 'transfer' && own.from === undefined)
    throw new InputError('attack transfer: the folder is missing; write transfer:from=DIR');
  const drawing = eotOptions.filter((key) => key in own);
  if (drawing.length > 0 && !on.target.randomised)
    throw new InputError(
      `attack "${id}": ${drawing.join(', ')} without effect, surface ${surface} draws nothing`,
    );
  if (own.randomness === 'known' && !('process' in on.target))
    throw new InputError(
      `attack "${id}": the seeds of the judgements are of no use on surface ${surface}, which does not run the defence itself`,
    );
  if (typeof own.target === 'number' && own.target >= defence.classes)
    throw new InputError(
      `attack "${id}": target must be a class of 0 to ${defence.classes - 1}, got ${own.target}`,
    );
  const resolve = (other: Partial<AttackSettings> = {}): AttackSettings => {
    const asked = Object.fromEntries(
      Object.entries(own).map(([key, value]) => [options[key as OptionName][0], value]),
    );
    const all = { ...given, eot: on.target.randomised ? given.eot : 1, ...asked, ...other };
    const { defaults = {} } = entry;
    // What was asked for here outdoes defaults that outdo the evaluation's settings.
    return {
      ...all,
      ...(typeof defaults === 'function' ? defaults(all, defence) : defaults),
      ...asked,
      ...other,
    };
  };
  const make = (seed: number, judgeSeeds: readonly number[], other: Partial<AttackSettings> = {}) => {
    checkSeed(seed);
    return entry.make({ ...resolve(other), seed, defence, surface: on, judgeSeeds });
  };
  checkClasses(make(0, [0]), on.target.classes); // refuses settings that do not fit
  const resolved = resolve();
  return {
    id,
    kind: entry.kind,
    surface,
    on,
    knowledge: entry.knowledge ?? on.knowledge,
    settings: Object.fromEntries(
      entry.options
        .map((key) => [options[key][0], resolved[options[key][0]]])
        .filter(([, v]) => v !== undefined),
    ),
    passes: entry.passes(resolved, defence) * (on.cost ?? 1),
    inside: entry.inside?.(resolved, defence) ?? 0,
    checkImages: (ids, height, width) => entry.checkImages?.(resolved, ids, height, width),
    make,
  };
}

/** A loss that needs more classes than there are is refused now, not when its turn comes. @throws InputError */
function checkClasses(attack: Attack, classes: number): void {
  if (attack instanceof AutoAttack) for (const member of attack.attacks) checkClasses(member, classes);
  if (attack instanceof Apgd) {
    const { loss } = attack.options;
    attackLoss(loss === 'targeted' ? 'dlr' : loss, loss === 'targeted', classes);
  }
  if (attack instanceof Pgd) {
    const { loss = 'ce', targeted = false } = attack.options;
    if (typeof loss === 'string') attackLoss(loss, targeted, classes);
  }
  if (attack instanceof LowFrequency) attackLoss(attack.options.loss, false, classes);
}

function surfaceWith(
  defence: Defence,
  name: string,
  texts: Readonly<Record<string, string>>,
  id: string,
): AttackSurface {
  const found = defence.surfaces[name];
  if (!found)
    throw new InputError(
      `attack "${id}": the defence ${defence.name} has no surface "${name}"; it has ${Object.keys(defence.surfaces).join(', ')}`,
    );
  if (Object.keys(texts).length === 0) return found;
  if (!found.with)
    throw new InputError(`attack "${id}": surface ${name} of the defence ${defence.name} has no options`);
  return found.with(texts);
}
