/**
 * The one way attacks ask a target: a Query is a loss, a hit flag and a gradient for a batch of images, averaged over
 * draws of randomness where the target has any (expectation over transformation, Athalye et al. 2018).
 */
import { vjp } from '../engine/autograd.ts';
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Program } from '../engine/program.ts';
import { advance } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { checkCount, type Slots } from './attack.ts';
import clearSource from './clear.wgsl';
import hitSource from './hit.wgsl';
import type { Loss } from './losses.ts';
import mixSource from './mix.wgsl';
import stackSource from './stack.wgsl';
import type { Draw, GraphTarget, ProcessTarget, Target } from './target.ts';
import worstSource from './worst.wgsl';

export interface Eot {
  /** Evaluations of a randomised target for one gradient. */
  readonly draws: number;
  /** Average the gradients of all draws, or of the k draws of lowest loss: those the defence wins. */
  readonly reduction?: 'mean' | { readonly worst: number };
  /**
   * New randomness for every gradient, the same draws each time, or the draws of the defence's own judgements, whose seeds
   * the attacker knows (a deterministic white box; processes alone). Draw d takes seed d, cyclically.
   */
  readonly randomness?: 'fresh' | 'fixed' | { readonly seeds: readonly number[] };
  /**
   * What counts as loss and as hit: the mean over all draws, which is the N-evaluation rule, or the last draw alone,
   * as the published AutoAttack does (the first lucky draw then ends an attack).
   */
  readonly judge?: 'all' | 'last';
}

/** One draw: a deterministic target. */
export const once: Eot = { draws: 1 };

export function checkEot(eot: Eot): void {
  checkCount('eot draws', eot.draws);
  const { reduction = 'mean' } = eot;
  if (reduction !== 'mean') {
    checkCount('eot worst', reduction.worst);
    if (reduction.worst > eot.draws)
      throw new InputError(
        `eot: the worst ${reduction.worst} of ${eot.draws} draws are asked for; take more draws`,
      );
  }
  if (typeof eot.randomness === 'object' && eot.randomness.seeds.length === 0)
    throw new InputError('eot: no seeds are known');
}

/** When an image counts as fooled: it is not of its own class, or it is of the wanted one. */
export type Goal = 'untargeted' | 'targeted';

export interface QueryOptions {
  /** None for attacks that only ask for logits. */
  readonly loss: Loss | null;
  readonly goal: Goal;
  readonly eot?: Eot;
  readonly seed?: number;
}

/** Answers lie in its tensors until the next pass. */
export class Query {
  /** [B, classes]: of the last draw, or the mean of all where all are judged. */
  readonly logits: Tensor;
  /** [B]. */
  readonly loss: Tensor;
  /** [B]: share of the judged draws in which the goal was met. At least half of them make a success. */
  readonly hit: Tensor;
  /** [B, H, W, C] of the loss. */
  readonly gradient: Tensor;
  readonly passes = { forward: 0, backward: 0 };
  readonly #target: Target;
  readonly #slots: Slots;
  readonly #eot: Required<Eot>;
  readonly #draw: Draw;
  readonly #index: Tensor;
  readonly #stacks: { gradient: Tensor; loss: Tensor } | null;
  readonly #programs = new Map<string, Program<unknown>>();
  readonly #options: QueryOptions;
  #first = 0;

  constructor(target: Target, slots: Slots, options: QueryOptions) {
    const { eot = once, seed = 0 } = options;
    checkEot(eot);
    this.#target = target;
    this.#slots = slots;
    this.#options = options;
    this.#eot = { reduction: 'mean', randomness: 'fresh', judge: 'all', ...eot };
    const { device } = slots.job;
    const b = slots.batch;
    const make = (shape: readonly number[]) => device.keep(device.zeros(shape));
    this.logits = make([b, target.classes]);
    this.loss = make([b]);
    this.hit = make([b]);
    this.gradient = make(options.loss ? slots.x.shape : [1]);
    this.#index = device.keep(device.zeros([1], 'u32'));
    this.#draw = {
      seed,
      rows: slots.ids,
      step: device.keep(device.zeros([1], 'u32')),
      labels: slots.labels,
    };
    const { draws, reduction, randomness } = this.#eot;
    if (typeof randomness === 'object' && !('process' in target))
      throw new InputError('eot: known seeds are for a target that runs the defence itself');
    this.#stacks =
      // The worst of all draws are their mean.
      reduction === 'mean' || reduction.worst === draws || !options.loss
        ? null
        : { gradient: make([draws, ...slots.x.shape]), loss: make([draws, b]) };
  }

  get device(): Device {
    return this.#slots.job.device;
  }

  /**
   * Begins the randomness anew; every batch does, so that its draws do not depend on the batches before.
   * @param run of an attack that begins several times: each meets draws of its own, a million apart
   */
  restart(run = 0): void {
    if ('restart' in this.#target) this.#target.restart?.();
    this.#first = this.#eot.randomness === 'fixed' ? 0 : (run * 2 ** 20) % 2 ** 32;
    this.#rewind();
  }

  #rewind(): void {
    this.#draw.step.write([this.#first]);
  }

  /** Logits, loss, hit and gradient at the slots' x. */
  async gradientPass(): Promise<void> {
    await this.#pass(true);
  }

  /** Logits and hit at the slots' x. */
  async forwardPass(): Promise<void> {
    await this.#pass(false);
  }

  async #pass(withGradient: boolean): Promise<void> {
    const { draws, randomness } = this.#eot;
    const images = this.#slots.images.length;
    this.passes.forward += images * draws;
    if (withGradient) this.passes.backward += images * draws;
    if (randomness === 'fixed') this.#rewind();
    if (draws > 1) (await this.#program('clear', () => this.#clear())).run();
    for (let d = 0; d < draws; d++) {
      if ('logits' in this.#target) await this.#replay(this.#target, withGradient);
      else await this.#process(this.#target, withGradient, d);
    }
    if (withGradient && this.#stacks) (await this.#program('worst', () => this.#worst())).run();
  }

  async #replay(target: GraphTarget, withGradient: boolean): Promise<void> {
    const { x } = this.#slots;
    const program = await this.#program(withGradient ? 'gradient' : 'forward', () => {
      if (!withGradient) {
        this.#judge(target.logits(x, this.#draw), null);
      } else {
        let logits: Tensor | null = null;
        const { output, pullback } = vjp(
          (u) => {
            logits = target.logits(u, this.#draw);
            return this.#lossOf(logits);
          },
          [x],
        );
        const [gradient] = pullback() as [Tensor];
        this.#judge(logits as unknown as Tensor, output);
        this.#collect(gradient, output);
      }
      advance(this.#draw.step);
    });
    program.run();
  }

  async #process(target: ProcessTarget, withGradient: boolean, d: number): Promise<void> {
    const { device } = this;
    const { randomness } = this.#eot;
    const seeds = typeof randomness === 'object' ? randomness.seeds : null;
    const draw = seeds ? { ...this.#draw, seed: seeds[d % seeds.length] as number, known: true } : this.#draw;
    const process = await target.process(this.#slots.x, draw);
    try {
      if (!withGradient) {
        device.scope(() => this.#judge(process.logits, null));
      } else {
        const [loss, cotangent] = device.scope(() => {
          const { output, pullback } = vjp((z) => this.#lossOf(z), [process.logits]);
          return [output, pullback()[0] as Tensor] as const;
        });
        const gradient = await process.pullback(cotangent);
        device.scope(() => {
          this.#judge(process.logits, loss);
          this.#collect(gradient, loss);
        });
        for (const t of [loss, cotangent, gradient]) t.dispose();
      }
    } finally {
      process.dispose();
    }
    device.scope(() => advance(this.#draw.step));
  }

  #lossOf(logits: Tensor): Tensor {
    const { labels, targets, batch } = this.#slots;
    const { classes } = this.#target;
    check(
      logits.rank === 2 && logits.shape[0] === batch && logits.shape[1] === classes,
      () => `attack: the target gave logits [${logits.shape}], wanted [${batch},${classes}]`,
    );
    return (this.#options.loss as Loss)(logits, labels, targets);
  }

  /** Zero bits, which are zero in every type. */
  #clear(): void {
    for (const y of [this.logits, this.loss, this.hit, this.gradient, this.#index]) {
      this.device.run(kernel('attack-clear', clearSource), { y }, { count: y.size }, linearGrid(y.size));
    }
  }

  /** Adds a draw's logits, loss and hit, or puts them in place of the last. */
  #judge(logits: Tensor, loss: Tensor | null): void {
    const { goal } = this.#options;
    const { draws, judge } = this.#eot;
    const keep = draws > 1 && judge === 'all' ? 1 : 0;
    const weight = keep ? 1 / draws : 1;
    this.#mix(logits, this.logits, keep, weight);
    if (loss) this.#mix(loss, this.loss, keep, weight);
    const { labels, targets, batch } = this.#slots;
    this.device.run(
      kernel('attack-hit', hitSource),
      { logits, aim: goal === 'targeted' ? targets : labels, hit: this.hit },
      { rows: batch, classes: this.#target.classes, equal: goal === 'targeted' ? 1 : 0, keep, weight },
      linearGrid(batch, 16),
    );
  }

  #collect(gradient: Tensor, loss: Tensor): void {
    const { draws } = this.#eot;
    if (!this.#stacks) {
      this.#mix(gradient, this.gradient, draws > 1 ? 1 : 0, 1 / draws);
      return;
    }
    for (const [x, y] of [
      [gradient, this.#stacks.gradient],
      [loss, this.#stacks.loss],
    ] as const) {
      this.device.run(
        kernel('attack-stack', stackSource),
        { x, y, index: this.#index },
        { count: x.size },
        linearGrid(x.size),
      );
    }
    advance(this.#index);
  }

  #worst(): void {
    const { draws, reduction } = this.#eot;
    const worst = reduction === 'mean' ? draws : reduction.worst;
    const { gradient, loss } = this.#stacks as { gradient: Tensor; loss: Tensor };
    const { batch, job } = this.#slots;
    this.device.run(
      kernel('attack-worst', worstSource),
      { stack: gradient, loss, y: this.gradient },
      { count: this.gradient.size, size: job.size, batch, draws, worst },
      linearGrid(this.gradient.size),
    );
  }

  /** y = keep·y + weight·x. */
  #mix(x: Tensor, y: Tensor, keep: number, weight: number): void {
    this.device.run(
      kernel('attack-mix', mixSource),
      { x, y },
      { count: y.size, keep, weight },
      linearGrid(y.size),
    );
  }

  async #program(name: string, f: () => void): Promise<Program<unknown>> {
    const known = this.#programs.get(name);
    if (known) return known;
    const program = this.device.record(`attack ${name}`, f);
    this.#programs.set(name, program);
    return program.prepare();
  }

  dispose(): void {
    for (const program of this.#programs.values()) program.dispose();
    for (const t of [this.logits, this.loss, this.hit, this.gradient, this.#index, this.#draw.step])
      t.dispose();
    this.#stacks?.gradient.dispose();
    this.#stacks?.loss.dispose();
  }
}
