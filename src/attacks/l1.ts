/** What the attacks in the L1 norm share: its projection onto the ball within [0, 1] (l1-projection.wgsl). */
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import { l1Radius, type Slots, threadsOf } from './attack.ts';
import projectionSource from './l1-projection.wgsl';
import projectSource from './project-l1.wgsl';
import reduceSource from './reduce.wgsl';

/** To stand before a kernel that defines `clean` and `raw`. */
export const l1Source = reduceSource + projectionSource;

/** x = the point of the ball of radius eps around the slots' clean images, within [0, 1], that is nearest to x. */
export function projectL1(slots: Slots, eps: number, x: Tensor = slots.x): void {
  const { clean, batch: rows, job } = slots;
  const { device, size } = job;
  device.run(
    kernel('project-l1', l1Source + projectSource, { THREADS: threadsOf(device) }),
    { x, clean },
    { rows, size, radius: l1Radius(eps, size) },
    linearGrid(rows, 1),
  );
}
