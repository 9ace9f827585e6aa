/**
 * Runs the test files in a few processes, each of which opens one device, and ends with one line that counts the
 * tests: `N passed, N failed`. Arguments choose files whose names contain one of them; those of test/full,
 * which take an hour on two CPU cores, run only with `--full`.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** What became of a test file; `text` is what its tests printed. */
interface Outcome {
  readonly text: string;
  readonly total: number;
  readonly passed: number;
}

const self = fileURLToPath(import.meta.url);
const here = dirname(self);
/** Tests wait for compilers and for JavaScript half of the time; each process has a device and memory of its own. */
const mostWorkers = 4;

if (process.argv[2] === '--worker') await work();
else process.exit(await lead(process.argv.slice(2)));

/** Hands the files out, one at a time to each process. */
async function lead(words: readonly string[]): Promise<number> {
  const full = words.includes('--full');
  const chosen = words.filter((word) => !word.startsWith('--'));
  const files = readdirSync(here, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.js') && /^full[/\\]/.test(file) === full)
    .filter((file) => chosen.length === 0 || chosen.some((part) => file.includes(part)))
    .sort();
  const queue = [...files];
  const seconds = new Map<string, number>();
  let passed = 0;
  let failed = 0;
  const run = async () => {
    let worker = fork(self, ['--worker']);
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const start = performance.now();
      const outcome = await outcomeOf(worker, file);
      seconds.set(file, (performance.now() - start) / 1000);
      if ('ended' in outcome) {
        console.log(`${file}\n  the process ended with ${outcome.ended} before its tests did\n`);
        failed++;
        worker = fork(self, ['--worker']);
        continue;
      }
      process.stdout.write(outcome.text);
      passed += outcome.passed;
      failed += outcome.total - outcome.passed;
    }
    worker.disconnect();
  };
  const workers = Math.min(mostWorkers, availableParallelism(), files.length);
  await Promise.all(Array.from({ length: workers }, run));
  const slowest = [...seconds].sort((a, b) => b[1] - a[1]).slice(0, 8);
  console.log(
    `slowest: ${slowest.map(([file, s]) => `${file.replace('.test.js', '')} ${s.toFixed(0)} s`).join(', ')}`,
  );
  console.log(`${passed} passed, ${failed} failed`);
  return failed > 0 || passed === 0 ? 1 : 0;
}

async function outcomeOf(
  worker: ReturnType<typeof fork>,
  file: string,
): Promise<Outcome | { readonly ended: number | string }> {
  const settled = new AbortController();
  worker.send(file);
  try {
    return await Promise.race([
      once(worker, 'message', settled).then(([outcome]) => outcome as Outcome),
      once(worker, 'exit', settled).then(([code, signal]) => ({ ended: signal ?? `code ${code}` })),
    ]);
  } finally {
    settled.abort();
  }
}

/** Runs the files whose names arrive. */
async function work(): Promise<void> {
  // uvu reads these when it loads: suites are queued by file and run on exec().
  const globals = globalThis as unknown as { UVU_DEFER: number; UVU_QUEUE: unknown[][]; UVU_INDEX: number };
  globals.UVU_DEFER = 1;
  globals.UVU_INDEX = 0;
  globals.UVU_QUEUE = [];
  const { exec } = await import('uvu');
  process.on('disconnect', () => process.exit());
  process.on('message', async (file: string) => {
    globals.UVU_QUEUE.splice(0, 1, [file]);
    await import(pathToFileURL(join(here, file)).href);
    let text = '';
    const write = process.stdout.write;
    process.stdout.write = ((chunk: string) => {
      text += chunk;
      return true;
    }) as typeof process.stdout.write;
    await exec();
    process.stdout.write = write;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: uvu colours its summary
    const plain = text.replace(/\u001b\[\d+m/g, '');
    const count = (what: string) => Number(new RegExp(`${what}:\\s+(\\d+)`).exec(plain)?.[1] ?? 0);
    const summary = text.lastIndexOf('\n  Total:');
    process.send?.({ text: text.slice(0, summary), total: count('Total'), passed: count('Passed') });
  });
}
