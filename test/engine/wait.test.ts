import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { waitFor } from '../../src/engine/wait.ts';
import { median } from '../../src/report/statistics.ts';

const test = suite('wait');
const later = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));

/** Turns that an event loop kept awake, as Dawn's binding keeps it, makes until the promise is settled. */
async function turnsDuring(promise: Promise<unknown>): Promise<number> {
  let turns = 0;
  let over = false;
  const spin = () => {
    turns++;
    if (!over) setImmediate(spin);
  };
  spin();
  await promise;
  over = true;
  return turns;
}

test('a spinning event loop sleeps between its turns, and only while something is waited for', async () => {
  const free = await turnsDuring(later(200));
  const paced = await turnsDuring(waitFor(later(200)));
  const after = await turnsDuring(later(200));
  assert.ok(paced < 1000 && paced > 20, `${paced} turns`);
  assert.ok(free > 5 * paced && after > 5 * paced, `${free} turns before, ${paced} paced, ${after} after`);
});

test('waits that overlap or follow at once share one loop', async () => {
  const turns = await turnsDuring(
    (async () => {
      for (let i = 0; i < 10; i++) await Promise.all([waitFor(later(20)), waitFor(later(10))]);
    })(),
  );
  assert.ok(turns > 100, `${turns} turns: more than one loop sleeps`);
});

test('while one wait is long, short ones beside it stay short', async () => {
  const long = waitFor(later(150));
  await later(60);
  const times: number[] = [];
  for (let i = 0; i < 40; i++) {
    const start = performance.now();
    await waitFor(new Promise((done) => setImmediate(done)));
    times.push(performance.now() - start);
  }
  await long;
  assert.ok(median(times) < 0.5, `${median(times)} ms for what takes one turn`);
});

test('values and errors pass through, and the loop ends after an error', async () => {
  assert.is(await waitFor(Promise.resolve(3)), 3);
  await waitFor(Promise.reject(new Error('lost'))).then(
    () => assert.unreachable(),
    (error) => assert.is(error.message, 'lost'),
  );
  const turns = await turnsDuring(later(50));
  assert.ok(turns > 1000, `${turns} turns`);
});

test.run();
