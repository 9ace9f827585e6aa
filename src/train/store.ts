/** A network's parameters while they are trained: those that move, their gathered statistics, their averages. */
import type { Device } from '../engine/device.ts';
import { InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { gradientControl, updateAverage } from '../kernels/optimiser.ts';
import {
  bindParameters,
  type ParameterShapes,
  type Parameters,
  type TensorSource,
} from '../nets/parameters.ts';

export interface StoreOptions {
  /** Which parameters move; default all but statistics and what the host keeps (fixed frequencies). */
  readonly trained?: (name: string) => boolean;
  /** How many moving copies are kept; 0. */
  readonly averages?: number;
}

/** Takes the batch statistics of a normalisation over `rows` values a channel. */
export type OnStatistics = NonNullable<Parameters['onStatistics']>;

export class ParameterStore {
  /** Of the trained parameters, in the order of the declaration. */
  readonly names: readonly string[];
  readonly tensors: readonly Tensor[];
  /** Copies of `tensors`, equal to them at first. */
  readonly averages: readonly (readonly Tensor[])[];
  /** All that the network reads; the trained ones change in place. */
  readonly parameters: Parameters;

  /** @throws InputError when the checkpoint does not fit, or nothing of it is to be trained */
  constructor(
    readonly device: Device,
    readonly declared: ParameterShapes,
    source: TensorSource,
    { trained = () => true, averages = 0 }: StoreOptions = {},
  ) {
    this.parameters = bindParameters(device, declared, source);
    this.names = [...declared].flatMap(([name, { statistic, host }]) =>
      !statistic && !host && trained(name) ? [name] : [],
    );
    if (this.names.length === 0) throw new InputError(`${source.label}: no parameter of it is to be trained`);
    this.tensors = this.names.map((name) => this.parameters.get(name));
    this.averages = Array.from({ length: averages }, () =>
      this.tensors.map((t) => device.keep(device.empty(t.shape))),
    );
    this.restartAverages();
  }

  /** Makes every average the parameters themselves. */
  restartAverages(): void {
    const { device, averages, tensors } = this;
    const [one, control] = [device.tensor([1]), gradientControl(device)];
    for (const average of averages)
      average.forEach((copy, i) => {
        updateAverage(copy, tensors[i] as Tensor, one, 0, control);
      });
    one.dispose();
    control.dispose();
  }

  /** The parameters with other tensors for the trained ones: those a gradient is taken for, or an average. */
  with(tensors: readonly Tensor[], onStatistics?: OnStatistics): Parameters {
    return this.parameters.with(
      new Map(this.names.map((name, i) => [name, tensors[i] as Tensor])),
      onStatistics,
    );
  }

  /** Number `index` of the averages, for a network to read; no average is kept of what is not trained. */
  average(index: number): Parameters {
    return this.with(this.averages[index] as readonly Tensor[]);
  }

  dispose(): void {
    this.parameters.dispose();
    for (const tensor of this.averages.flat()) tensor.dispose();
  }
}
