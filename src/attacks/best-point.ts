/**
 * The search that attacks on the scores share: point after point is proposed, of each image that of least margin is kept,
 * and an image with a margin of 0 or less stays as it is, unless misread images are attacked. Margins lie on the device and
 * are read now and then.
 */
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Program } from '../engine/program.ts';
import { advance } from '../engine/random.ts';
import type { Tensor } from '../engine/tensor.ts';
import { copy } from './ascent.ts';
import type { Slots } from './attack.ts';
import judgeSource from './best-judge.wgsl';
import keepSource from './best-keep.wgsl';
import type { Query } from './query.ts';

export interface Search {
  readonly points: number;
  /** So many of the first are not counted as queries; default 0. */
  readonly free?: number;
  /** Queries between two looks at what is left, each an entry of the traces. */
  readonly interval: number;
}

export class BestPoint {
  /** Points judged so far, [1] u32. */
  readonly counter: Tensor;
  /** [batch, H, W, C] */
  readonly best: Tensor;
  /** Margin, and whether the point at hand is taken. */
  readonly #state: Tensor;
  readonly #judge: Program<unknown>;

  constructor(
    readonly slots: Slots,
    readonly query: Query,
  ) {
    const { job, batch: rows, x } = slots;
    const { device, size } = job;
    this.best = device.keep(device.zeros(x.shape));
    this.#state = device.keep(device.zeros([rows, 2]));
    this.counter = device.keep(device.zeros([1], 'u32'));
    const { best, counter } = this;
    const state = this.#state;
    this.#judge = device.record('judge points', () => {
      device.run(
        kernel('best-judge', judgeSource, { ENDS: job.misread === 'left' }),
        { logits: query.logits, labels: slots.labels, counter, state },
        { rows, classes: query.logits.shape[1] as number },
        linearGrid(rows, 16),
      );
      device.run(
        kernel('best-keep', keepSource),
        { x, state, best },
        { count: x.size, size },
        linearGrid(x.size),
      );
      advance(counter);
    });
  }

  /**
   * Judges points that `propose(p)` puts into the slots' x, fewer when all images are fooled.
   * @returns rows are slots: the best points, their margins, and whether they are misclassified (with margin 0 the first
   *   of two equal classes decides)
   */
  async search(
    { points, free = 0, interval }: Search,
    propose: (p: number) => void,
    onQuery: (done: number) => void,
  ): Promise<{ best: Float32Array; margins: readonly number[]; hits: Float32Array }> {
    const { slots, query, counter } = this;
    const { device } = slots.job;
    counter.write([0]);
    for (let p = 0; p < points; p++) {
      propose(p);
      await query.forwardPass();
      this.#judge.run();
      const queries = p + 1 - free;
      if ((queries > 0 && queries % interval === 0) || p + 1 === points) {
        const margins = await this.#margins();
        this.#note(margins);
        onQuery(queries);
        if (slots.job.misread === 'left' && margins.every((margin) => margin <= 0)) break;
      } else if (queries % 10 === 0) {
        await device.sync();
      }
    }
    const margins = await this.#margins();
    copy(this.best, slots.x);
    await query.forwardPass();
    const [best, hits] = await Promise.all([this.best.floats(), query.hit.floats()]);
    return { best, margins, hits };
  }

  async #margins(): Promise<number[]> {
    const state = await this.#state.floats();
    return this.slots.images.map((_, b) => state[2 * b] as number);
  }

  /** An image's trace ends with the point that fools it, where the search does. */
  #note(margins: readonly number[]): void {
    this.slots.images.forEach((i, b) => {
      const history = this.slots.job.trace[i] as { loss: number[]; hit: number[] };
      const margin = margins[b] as number;
      if (this.slots.job.misread === 'left' && (history.hit.at(-1) ?? 0) > 0) return;
      history.loss.push(-margin);
      history.hit.push(margin <= 0 ? 1 : 0);
    });
  }

  dispose(): void {
    this.#judge.dispose();
    for (const t of [this.best, this.#state, this.counter]) t.dispose();
  }
}
