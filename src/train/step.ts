/**
 * One training step as one Program: loss and its gradient, clipping, the optimiser's update, running statistics, moving
 * averages, and a row of the trace. Before a replay the host writes the batch, the learning rate and the averages'
 * weights; nothing is read back.
 */

import { Trace } from '../cmap/trace.ts';
import { vjp } from '../engine/autograd.ts';
import type { Tensor } from '../engine/tensor.ts';
import { affine } from '../kernels/elementwise.ts';
import {
  gradientControl,
  guardGradients,
  Optimiser,
  type OptimiserOptions,
  updateAverage,
} from '../kernels/optimiser.ts';
import { mean } from '../kernels/reduce.ts';
import { concat, reshape, slice } from '../kernels/shape.ts';
import type { Recipe, Rows } from './recipe.ts';
import { averageWeight, learningRate, type RateSchedule } from './schedules.ts';
import type { ParameterStore } from './store.ts';

export interface StepOptions {
  readonly rate: RateSchedule;
  readonly optimiser: OptimiserOptions;
  /** Weight decay acts on matrices and kernels alone, not on biases and norms. */
  readonly decayMatricesOnly?: boolean;
  /** Largest norm of all gradients together; 0 leaves them. */
  readonly clip?: number;
  /** In so many passes is the gradient of an update taken, each of as many images; 1. */
  readonly accumulate?: number;
  /** Rates of the moving averages kept for the result. */
  readonly averages: readonly number[];
  /** See `averageWeight`; default 0.05. */
  readonly averageRampUp?: number;
  /** Normalisations keep their running statistics and use them, as where only the last layer is trained. */
  readonly frozenStatistics?: boolean;
  /** Rows of the trace between two readings. */
  readonly traceLength: number;
}

/** Fraction of the batch in running means and variances, PyTorch's default. */
const momentum = 0.1;

export class TrainingStep {
  readonly optimiser: Optimiser;
  /** Rows of (loss, gradient norm). */
  readonly trace: Trace;
  readonly control: Tensor;
  readonly program;
  readonly #weights: Tensor;

  /**
   * @param store its averages are those of `options.averages`, then the recipe's target where it has one
   */
  constructor(
    readonly store: ParameterStore,
    readonly recipe: Recipe,
    readonly options: StepOptions,
  ) {
    const { device, tensors, averages } = store;
    const decayed = tensors.map((t) => !options.decayMatricesOnly || t.rank > 1);
    this.optimiser = new Optimiser(device, tensors, options.optimiser, decayed);
    this.trace = new Trace(device, options.traceLength, 2);
    this.control = gradientControl(device);
    // One weight an average, then that of the running statistics.
    this.#weights = device.keep(device.zeros([averages.length + 1]));
    this.program = device.record('training step', () => {
      const statistics: [name: string, mean: Tensor, variance: Tensor, rows: number][] = [];
      const onStatistics = options.frozenStatistics
        ? undefined
        : (...seen: (typeof statistics)[number]) => void statistics.push(seen);
      // The mean over the update is the sum over its passes of their means by their number.
      const passes = this.#passes();
      let sums: Tensor[] = [];
      for (const rows of passes) {
        const { output, pullback } = vjp((...watched) => {
          const each = recipe.loss(store.with(watched, onStatistics), rows);
          return passes.length === 1 ? mean(each) : affine(mean(each), 1 / passes.length);
        }, tensors);
        const pass = [reshape(output, [1]), ...pullback()];
        sums = sums.length === 0 ? pass : sums.map((value, i) => device.accumulate(value, pass[i] as Tensor));
      }
      const [loss, ...gradients] = sums as [Tensor, ...Tensor[]];
      const { control } = this;
      const squares = guardGradients(gradients, loss, control, options.clip);
      this.optimiser.apply(gradients, control);
      averages.forEach((average, a) => {
        average.forEach((copy, i) => {
          updateAverage(copy, tensors[i] as Tensor, this.#weights, a, control);
        });
      });
      for (const [name, m, v, rows] of statistics) {
        const of = (field: string) => store.parameters.get(`${name}.${field}`);
        const at = averages.length;
        updateAverage(of('running_mean'), m, this.#weights, at, control);
        // Running variances are unbiased, those that normalise are not.
        updateAverage(of('running_var'), v, this.#weights, at, control, rows / (rows - 1));
      }
      this.trace.push(concat([loss, slice(control, 0, 1, 1)], 0));
      return { loss, squares };
    });
  }

  #passes(): Rows[] {
    const { accumulate = 1 } = this.options;
    const count = this.recipe.batch / accumulate;
    return Array.from({ length: accumulate }, (_, i) => ({ first: i * count, count }));
  }

  /** Queues update number `step` (0, 1, …). */
  run(step: number): void {
    const { recipe, store, options } = this;
    recipe.load(step);
    this.optimiser.begin(step + 1, learningRate(options.rate, step));
    const weights = store.averages.map((_, a) => {
      const rate = options.averages[a];
      return rate === undefined
        ? 1 - (recipe.targetRate?.(step) ?? 0)
        : averageWeight(rate, step, options.averageRampUp ?? 0.05);
    });
    this.#weights.write([...weights, momentum]);
    this.program.run();
  }

  /** After an update that was stopped, in words: the first kernel whose result is not finite, and the first parameter it reaches. */
  async diagnose(step: number): Promise<string> {
    const { recipe, store, program } = this;
    // Updates do nothing by now: the same step again.
    recipe.load(step);
    const found = await program.firstNotFinite();
    if (!found) return 'the same update was finite when it was run again';
    const { kernel, operation, index, count } = found;
    const where = `kernel ${kernel}${operation && ` in ${operation}`}, dispatch ${index + 1} of ${count}`;
    const squares = await program.outputs.squares.floats();
    const bad = squares.findIndex((value) => !Number.isFinite(value));
    const reached = bad < 0 ? '' : `; of the gradients, that of ${store.names[bad]} is the first it reaches`;
    return `the first result that is not finite is of ${where}${reached}`;
  }

  dispose(): void {
    this.program.dispose();
    for (const part of [this.optimiser, this.trace, this.control, this.#weights]) part.dispose();
  }
}
