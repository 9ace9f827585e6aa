/**
 * Waiting for the device. Dawn's Node binding asks for finished work on every turn of the event loop, which keeps one core
 * busy: on a software driver a core that should compute. So the thread sleeps between turns, at most 1/20 of the wait so
 * far and at most a millisecond. A wait counts from the last promise that settled: with several runs always in flight, each
 * is a wait of its own, and a GPU that needs a millisecond for one does not starve.
 */
import { inNode } from './adapter.ts';

const longest = 1;
const share = 1 / 20;

/** Promises waited for now, since when none of them settled, and whether the loop that serves them all runs. */
let pending = 0;
let start = 0;
let pacing = false;
/** Never woken: what the thread sleeps on. */
let never: Int32Array | undefined;

/** The promise, waited for without a spinning core; in a browser the promise itself. */
export function waitFor<T>(promise: Promise<T>): Promise<T> {
  if (!inNode()) return promise;
  if (pending++ === 0) start = performance.now();
  if (!pacing) pace();
  return promise.finally(() => {
    pending--;
    start = performance.now();
  });
}

async function pace(): Promise<void> {
  never ??= new Int32Array(new SharedArrayBuffer(4));
  pacing = true;
  while (pending > 0) {
    await new Promise((turn) => setImmediate(turn));
    if (pending > 0) Atomics.wait(never, 0, 0, Math.min(longest, share * (performance.now() - start)));
  }
  pacing = false;
}
