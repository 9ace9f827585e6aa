/** A thread of `BatchWorkers`: makes the batch of each step that it is told. */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { InputError } from '../engine/errors.ts';
import { Batches } from './batches.ts';
import { decodeFiles } from './data.ts';
import type { Reply, WorkerTask } from './prefetch.ts';

const port = parentPort as MessagePort;
const { set, options } = workerData as WorkerTask;
const batches = new Batches(set, options);

port.on('message', async (step: number) => {
  try {
    await decodeFiles(set, batches.indices(step));
    const batch = batches.at(step);
    const owned = [batch.images, batch.labels, ...(batch.changes ? [batch.changes] : [])];
    port.postMessage(
      { step, batch } satisfies Reply,
      owned.map(({ buffer }) => buffer as ArrayBuffer),
    );
  } catch (error) {
    // Of this step alone: what comes before a damaged file is trained on.
    if (!(error instanceof InputError)) throw error;
    port.postMessage({ step, problem: error.message } satisfies Reply);
  }
});
