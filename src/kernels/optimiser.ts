/**
 * Training's optimisers, one fused kernel a parameter: Adam (Kingma and Ba 2015), RAdam (Liu et al. 2020) and SGD with
 * momentum (Nesterov's where asked for), each as in torch.optim; clipping by the global norm; moving averages.
 *
 * What changes from step to step (learning rate, bias corrections) is computed on the host in double and written
 * to a few floats before a replay. What is not finite is stopped on the device: from the first loss or gradient
 * norm on that is no number, updates do nothing, so the parameters stay those that made it. (The latents' `Adam`
 * counts by itself, because no host takes part in its loop.)
 */
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import emaSource from './ema.wgsl';
import guardSource from './gradient-guard.wgsl';
import normSource from './gradient-norm.wgsl';
import momentsSource from './optimiser-moments.wgsl';
import momentumSource from './optimiser-momentum.wgsl';
import { sum } from './reduce.ts';

export interface OptimiserOptions {
  readonly kind: 'adam' | 'radam' | 'sgd';
  /** Of Adam and RAdam; 0.9 and 0.999. */
  readonly betas?: readonly [number, number];
  /** Of Adam and RAdam; 1e-8. */
  readonly eps?: number;
  /** Of SGD; 0. */
  readonly momentum?: number;
  readonly nesterov?: boolean;
  /** Times the parameter, added to the gradient (L2, as torch's `weight_decay`); 0. */
  readonly weightDecay?: number;
}

const slotsOf = { adam: ['m', 'v'], radam: ['m', 'v'], sgd: ['m'] } as const;

const layoutOf = (x: Tensor) => {
  const wide = x.size % 4 === 0;
  const count = wide ? x.size / 4 : x.size;
  return { T: wide ? 'vec4<f32>' : 'f32', wide, count, grid: linearGrid(count) };
};

/** Changes its parameters in place. */
export class Optimiser {
  /** By parameter, in the order of `slotNames`; zero at first. */
  readonly slots: readonly (readonly Tensor[])[];
  readonly slotNames: readonly string[];
  readonly #coefficients: Tensor;
  readonly #options: Required<OptimiserOptions>;

  /**
   * @param decayed whether weight decay acts on a parameter; default on all
   * @throws InputError for an option out of range
   */
  constructor(
    readonly device: Device,
    readonly params: readonly Tensor[],
    options: OptimiserOptions,
    readonly decayed: readonly boolean[] = params.map(() => true),
  ) {
    const {
      kind,
      betas = [0.9, 0.999],
      eps = 1e-8,
      momentum = 0,
      nesterov = false,
      weightDecay = 0,
    } = options;
    if (!Object.hasOwn(slotsOf, kind))
      throw new InputError(`optimiser: there is no "${kind}"; there are ${Object.keys(slotsOf).join(', ')}`);
    for (const [name, value] of Object.entries({ 'betas[0]': betas[0], 'betas[1]': betas[1], momentum }))
      if (!(value >= 0 && value < 1))
        throw new InputError(`optimiser: ${name} must be in [0, 1), got ${value}`);
    for (const [name, value] of Object.entries({ eps, weightDecay }))
      if (!(value >= 0 && Number.isFinite(value)))
        throw new InputError(`optimiser: ${name} must be at least 0, got ${value}`);
    if (nesterov && momentum === 0) throw new InputError('optimiser: nesterov wants a momentum above 0');
    check(!device.recording, () => 'optimiser: made while a program is recorded; make it before');
    this.#options = { kind, betas, eps, momentum, nesterov, weightDecay };
    this.slotNames = slotsOf[kind];
    this.slots = params.map((p) => this.slotNames.map(() => device.keep(device.zeros(p.shape))));
    this.#coefficients = device.keep(device.zeros([3]));
  }

  /**
   * Before update number `step` (1, 2, …): writes what the step's kernels read.
   * @throws InputError for a learning rate that is negative or not finite
   */
  begin(step: number, lr: number): void {
    if (!(lr >= 0 && Number.isFinite(lr)))
      throw new InputError(`optimiser: lr must be a number of at least 0, got ${lr}`);
    this.#coefficients.write(coefficientsOf(this.#options, step, lr));
  }

  /**
   * One update of every parameter. Usable in a program.
   * @param gradients of the parameters, in their order
   * @param control of `guardGradients`
   * @throws ShapeError
   */
  apply(gradients: readonly Tensor[], control: Tensor): void {
    const { device, params } = this;
    const { betas, momentum, nesterov, weightDecay, kind } = this.#options;
    check(
      gradients.length === params.length,
      () => `optimiser: ${gradients.length} gradients for ${params.length} parameters`,
    );
    const coefficients = this.#coefficients;
    params.forEach((p, i) => {
      const g = gradients[i] as Tensor;
      check(
        String(p.shape) === String(g.shape) && g.dtype === 'f32',
        () => `optimiser: gradient ${i} is ${g.dtype} [${g.shape}], the parameter is f32 [${p.shape}]`,
      );
      const { T, count, grid } = layoutOf(p);
      const [m, v] = this.slots[i] as [Tensor, Tensor];
      const decay = this.decayed[i] ? weightDecay : 0;
      if (kind === 'sgd') {
        const k = kernel('optimiser-momentum', momentumSource, { T, NESTEROV: nesterov });
        device.run(k, { p, g, m, coefficients, control }, { momentum, decay, count }, grid);
        return;
      }
      // 1 − β in double: in f32 it would lose digits for β near 1.
      const complements = betas.map((beta) => 1 - beta);
      const k = kernel('optimiser-moments', momentsSource, { T });
      device.run(k, { p, g, m, v, coefficients, control }, { betas, complements, decay, count }, grid);
    });
  }

  dispose(): void {
    this.#coefficients.dispose();
    for (const slot of this.slots.flat()) slot.dispose();
  }
}

/**
 * What `optimiser-moments.wgsl` multiplies m with, as (a, b, c) of a + b/(√v + c); q_i = 1 − β_iᵗ:
 *   Adam   lr/q₁ · 1/(√(v/q₂) + ε) = (lr √q₂/q₁)/(√v + ε√q₂)
 *   RAdam  lr/q₁ · r · √q₂/(√v + ε) where ρ_t > 5, else lr/q₁, with ρ_∞ = 2/(1−β₂) − 1, ρ_t = ρ_∞ − 2tβ₂ᵗ/q₂,
 *          r² = (ρ_t−4)(ρ_t−2)ρ_∞/((ρ_∞−4)(ρ_∞−2)ρ_t)
 */
function coefficientsOf({ kind, betas, eps }: Required<OptimiserOptions>, t: number, lr: number): number[] {
  if (kind === 'sgd') return [lr, 0, 0];
  const power = betas[1] ** t;
  const [q1, q2] = [1 - betas[0] ** t, 1 - power];
  if (kind === 'adam') return [0, (lr * Math.sqrt(q2)) / q1, eps * Math.sqrt(q2)];
  const most = 2 / (1 - betas[1]) - 1;
  const rho = most - (2 * t * power) / q2;
  // A divisor of 1 keeps 0/0 out where m is 0 too.
  if (rho <= 5) return [lr / q1, 0, 1];
  const r = Math.sqrt(((rho - 4) * (rho - 2) * most) / ((most - 4) * (most - 2) * rho));
  return [0, (lr * r * Math.sqrt(q2)) / q1, eps];
}

const lanes = 256;

/** (clipping factor, norm of all gradients, 1 once something was not finite): what the updates read. */
export function gradientControl(device: Device): Tensor {
  return device.keep(device.tensor([1, 0, 0]));
}

/**
 * Writes `control` from the gradients' norm ‖(g_1, …, g_n)‖ and the loss. Usable in a program.
 * @param limit the norm is scaled down to this; 0 leaves it
 * @returns the sum of squares of each gradient, [n]: which of them is not finite
 */
export function guardGradients(
  gradients: readonly Tensor[],
  loss: Tensor,
  control: Tensor,
  limit = 0,
): Tensor {
  const { device } = loss;
  const table = device.empty([gradients.length, lanes]);
  gradients.forEach((g, row) => {
    const { T, wide, count } = layoutOf(g);
    const finish = `\nfn finish(v: T) -> f32 { return ${wide ? '(v.x + v.y) + (v.z + v.w)' : 'v'}; }`;
    const k = kernel('gradient-norm', normSource + finish, { T, LANES: lanes });
    device.run(k, { g, table }, { count, row }, linearGrid(lanes));
  });
  const squares = sum(table, [1]);
  // 1e20 is beyond every norm of numbers whose squares are finite.
  const params = { count: gradients.length, limit: limit > 0 ? limit : 1e20 };
  device.run(kernel('gradient-guard', guardSource), { squares, loss, control }, params, [1, 1, 1]);
  return squares;
}

/**
 * average ← average + w·(scale·value − average), w = weights[index], in place. Usable in a program.
 * @param weights f32, written by the host: 1 − rate for an exponential moving average
 */
export function updateAverage(
  average: Tensor,
  value: Tensor,
  weights: Tensor,
  index: number,
  control: Tensor,
  scale = 1,
): void {
  const { device } = average;
  check(
    String(average.shape) === String(value.shape) && index < weights.size,
    () => `updateAverage: [${average.shape}] of [${value.shape}] with weight ${index} of ${weights.size}`,
  );
  const { T, count, grid } = layoutOf(average);
  device.run(
    kernel('ema', emaSource, { T }),
    { average, value, weights, control },
    { index, scale, count },
    grid,
  );
}
