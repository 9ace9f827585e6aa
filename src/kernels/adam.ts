/** Adam (Kingma and Ba 2015), as torch.optim.Adam without weight decay or amsgrad, one fused kernel a tensor. */
import type { Device } from '../engine/device.ts';
import { check, InputError } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import source from './adam.wgsl';
import advanceSource from './adam-advance.wgsl';

export interface AdamOptions {
  readonly lr: number;
  /** Decay of the first and second moment; 0.9 and 0.999 by default. */
  readonly betas?: readonly [number, number];
  /** Added to the root of the corrected second moment; 1e-8 by default. */
  readonly eps?: number;
}

/** The moments of one parameter. */
export interface AdamMoments {
  readonly m: Tensor;
  readonly v: Tensor;
}

/**
 * Changes its parameters in place. The step count, the bias corrections and the learning rate live on the device, so a
 * recorded `step` goes on counting at each replay. Its tensors live until `dispose`, whatever scope made them.
 */
export class Adam {
  readonly params: readonly Tensor[];
  readonly moments: readonly AdamMoments[];
  /** (1 − β₁ᵗ, 1 − β₂ᵗ). */
  readonly correction: Tensor;
  /** t, u32 [1]. */
  readonly count: Tensor;
  /** f32 [1]. */
  readonly rate: Tensor;
  readonly #betas: readonly [number, number];
  readonly #eps: number;

  /** @throws InputError for an option out of range, ShapeError for a parameter that is not f32 */
  constructor(
    readonly device: Device,
    params: Tensor | readonly Tensor[],
    options: AdamOptions,
  ) {
    const { lr, betas = [0.9, 0.999], eps = 1e-8 } = options;
    checkRate(lr);
    for (const beta of betas)
      if (!(beta >= 0 && beta < 1))
        throw new InputError(`adam: betas must be in [0, 1), got ${betas.join(', ')}`);
    if (!(eps >= 0)) throw new InputError(`adam: eps must be at least 0, got ${eps}`);
    check(
      !device.recording,
      () =>
        'adam: made while a program is recorded, which would forget its state at each run; make it before',
    );
    this.params = Array.isArray(params) ? params : [params as Tensor];
    for (const [i, p] of this.params.entries()) {
      check(p.dtype === 'f32', () => `adam: parameter ${i} [${p.shape}] is ${p.dtype}, wanted f32`);
    }
    this.#betas = betas;
    this.#eps = eps;
    const zeros = (shape: readonly number[], dtype: 'f32' | 'u32' = 'f32') =>
      device.keep(device.zeros(shape, dtype));
    this.moments = this.params.map((p) => ({ m: zeros(p.shape), v: zeros(p.shape) }));
    this.correction = zeros([2]);
    this.count = zeros([1], 'u32');
    this.rate = device.keep(device.full([1], lr));
  }

  /**
   * One update of every parameter. Usable in a program.
   * @param gradients of the parameters, in their order
   * @throws ShapeError
   */
  step(gradients: Tensor | readonly Tensor[]): void {
    const { device, correction, count, rate } = this;
    const all = Array.isArray(gradients) ? (gradients as readonly Tensor[]) : [gradients as Tensor];
    check(
      all.length === this.params.length,
      () => `adam: ${all.length} gradients for ${this.params.length} parameters`,
    );
    this.params.forEach((p, i) => {
      const g = all[i] as Tensor;
      check(
        String(p.shape) === String(g.shape) && g.dtype === 'f32',
        () => `adam: gradient ${i} is ${g.dtype} [${g.shape}], the parameter is f32 [${p.shape}]`,
      );
    });
    // 1 − β in double: in f32 it would lose digits for β near 1.
    const complements = this.#betas.map((beta) => 1 - beta);
    device.run(
      kernel('adam-advance', advanceSource),
      { correction, count },
      { betas: this.#betas, complements },
      [1, 1, 1],
    );
    this.params.forEach((p, i) => {
      const wide = p.size % 4 === 0;
      const elements = wide ? p.size / 4 : p.size;
      if (elements === 0) return;
      const { m, v } = this.moments[i] as AdamMoments;
      device.run(
        kernel('adam', source, { T: wide ? 'vec4<f32>' : 'f32' }),
        { p, g: all[i] as Tensor, m, v, correction, rate },
        { betas: this.#betas, complements, eps: this.#eps, count: elements },
        linearGrid(elements),
      );
    });
  }

  /** From the next step on, also of a recorded program's replays. */
  setLearningRate(lr: number): void {
    checkRate(lr);
    this.rate.write([lr]);
  }

  /** Forgets all moments and starts to count at 0; the parameters stay. */
  reset(): void {
    const { device } = this;
    check(!device.recording, () => 'adam: reset while a program is recorded');
    const state = [this.correction, ...this.moments.flatMap(({ m, v }) => [m, v])];
    for (const tensor of state) tensor.write(new Float32Array(tensor.size));
    this.count.write([0]);
  }

  /** Gives the state back; the parameters stay. */
  dispose(): void {
    for (const t of [this.correction, this.count, this.rate, ...this.moments.flatMap(({ m, v }) => [m, v])])
      t.dispose();
  }
}

function checkRate(lr: number): void {
  if (!(lr >= 0 && Number.isFinite(lr)))
    throw new InputError(`adam: lr must be a number of at least 0, got ${lr}`);
}
