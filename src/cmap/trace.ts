import type { Device } from '../engine/device.ts';
import { kernel } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import source from './trace.wgsl';

/** Rows of numbers a replayed program leaves behind, one a run, read once at the end. */
export class Trace {
  readonly rows: Tensor;
  readonly step: Tensor;

  constructor(
    readonly device: Device,
    readonly length: number,
    readonly width: number,
  ) {
    this.rows = device.keep(device.zeros([length, width]));
    this.step = device.keep(device.zeros([1], 'u32'));
  }

  /** Appends a row; `values` has `width` elements. Usable in a program. */
  push(values: Tensor): void {
    this.device.run(
      kernel('trace', source),
      { values, trace: this.rows, step: this.step },
      { width: this.width, rows: this.length },
      [1, 1, 1],
    );
  }

  dispose(): void {
    this.rows.dispose();
    this.step.dispose();
  }
}
