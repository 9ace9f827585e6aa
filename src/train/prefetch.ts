/**
 * Batches that worker threads make ahead of the updates that take them, so that the device does not wait for files to be
 * decoded or images to be augmented. Which thread makes a batch, and when, changes nothing of it.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { InputError } from '../engine/errors.ts';
import { packageRoot } from '../formats/package-root.ts';
import { type Batch, Batches, type BatchOptions, type BatchSource, type ImageSet } from './batches.ts';
import { shared } from './data.ts';

/** What a worker is given; the images are shared, not copied. */
export interface WorkerTask {
  readonly set: ImageSet;
  readonly options: BatchOptions;
}

/** A worker's answer to the number of a step. */
export type Reply = { readonly step: number } & ({ readonly batch: Batch } | { readonly problem: string });

interface Waiting {
  readonly resolve: (batch: Batch) => void;
  readonly reject: (error: Error) => void;
}

export class BatchWorkers implements BatchSource {
  readonly #task: WorkerTask;
  readonly #count: number;
  #workers: Worker[] = [];
  readonly #asked = new Map<number, Promise<Batch>>();
  readonly #waiting = new Map<number, Waiting>();
  readonly #ready = new Map<number, Batch>();

  /**
   * Threads begin with the first `ready`.
   * @param steps batches from this number on are not made ahead
   * @param workers threads; 0 is one for each core but one, at most 8
   * @throws InputError as `Batches`
   */
  constructor(
    set: ImageSet,
    options: BatchOptions,
    readonly steps: number,
    workers = 0,
  ) {
    this.#task = { set: { ...new Batches(set, options).set, images: shared(set.images) }, options };
    this.#count = workers || Math.min(8, Math.max(1, availableParallelism() - 1));
  }

  /** Resolves when `at(step)` has its batch; those of the next steps are begun. @throws InputError for a damaged file of it */
  async ready(step: number): Promise<void> {
    if (this.#workers.length === 0) this.#start();
    const end = Math.max(step + 1, Math.min(this.steps, step + this.#count + 2));
    for (let s = step; s < end; s++) if (!this.#asked.has(s)) this.#ask(s);
    this.#ready.set(step, await (this.#asked.get(step) as Promise<Batch>));
  }

  /** The batch of a step that is ready; once. */
  at(step: number): Batch {
    const batch = this.#ready.get(step);
    if (!batch) throw new Error(`batch ${step} was taken before it was ready`);
    this.#ready.delete(step);
    this.#asked.delete(step);
    return batch;
  }

  #ask(step: number): void {
    const promise = new Promise<Batch>((resolve, reject) => {
      this.#waiting.set(step, { resolve, reject });
    });
    promise.catch(() => {}); // thrown where it is awaited
    this.#asked.set(step, promise);
    this.#workers[step % this.#count]?.postMessage(step);
  }

  #start(): void {
    const path = join(packageRoot(), 'dist', 'batch-worker.js');
    this.#workers = Array.from({ length: this.#count }, () => {
      const worker = new Worker(path, { workerData: this.#task });
      worker.on('message', (reply: Reply) => {
        const waiting = this.#waiting.get(reply.step);
        this.#waiting.delete(reply.step);
        if ('batch' in reply) waiting?.resolve(reply.batch);
        else waiting?.reject(new InputError(reply.problem));
      });
      worker.on('error', (error) => {
        for (const { reject } of this.#waiting.values()) reject(error);
      });
      return worker;
    });
  }

  dispose(): void {
    for (const worker of this.#workers) void worker.terminate();
  }
}
