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

/** Looks at what its process has run, and so is the last of each. */
const atTheEnd = 'compiled.test.js';

/** Hands the files out, one at a time to each process. */
async function lead(words: readonly string[]): Promise<number> {
  const full = words.includes('--full');
  const chosen = words.filter((word) => !word.startsWith('--'));
  const files = readdirSync(here, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.js') && /^full[/\\]/.test(file) === full)
    .filter((file) => chosen.length === 0 || chosen.some((part) => file.includes(part)))
    .sort();
  const queue = files.filter((file) => file !== atTheEnd);
  const seconds = new Map<string, number>();
  let passed = 0;
  let failed = 0;
  const ended = (file: string, how: string, when: string) => {
    console.log(`${file}\n  the process ended with ${how} ${when}\n`);
    failed++;
  };
  const run = async () => {
    let worker: Worker | null = null;
    let last = '';
    let looks = files.includes(atTheEnd) ? 1 : 0;
    const next = () => queue.shift() ?? (looks-- > 0 ? atTheEnd : undefined);
    for (let file = next(); file !== undefined; file = next()) {
      worker ??= new Worker();
      const start = performance.now();
      const outcome = await worker.run(file);
      if (typeof outcome === 'object') {
        seconds.set(file, (performance.now() - start) / 1000);
        process.stdout.write(outcome.text);
        passed += outcome.passed;
        failed += outcome.total - outcome.passed;
        last = file;
        continue;
      }
      if (worker.begun) ended(file, outcome, 'before its tests did');
      else {
        // Something that the file before left behind ended it.
        ended(last, outcome, 'after its tests');
        queue.unshift(file);
      }
      worker = null;
    }
    const end = await worker?.end();
    if (end !== undefined && end !== 'code 0') ended(last, end, 'after its tests');
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

/** A process that runs files one after another. */
class Worker {
  /** Whether it has begun with the latest file. */
  begun = false;
  readonly #child = fork(self, ['--worker']);
  readonly #ended = once(this.#child, 'exit').then(([code, signal]) => String(signal ?? `code ${code}`));

  /** @returns what became of the file, or how the process ended */
  async run(file: string): Promise<Outcome | string> {
    this.begun = false;
    const answer = new Promise<Outcome>((resolve) => {
      this.#child.removeAllListeners('message').on('message', (message: Outcome | 'begun') => {
        if (message === 'begun') this.begun = true;
        else resolve(message);
      });
    });
    // To a process that has just ended nothing can be sent; that it ended is told below.
    this.#child.send(file, () => {});
    return Promise.race([answer, this.#ended]);
  }

  /** Lets it end. @returns how it did */
  end(): Promise<string> {
    if (this.#child.connected) this.#child.disconnect();
    return this.#ended;
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
  // Failures are counted by what is sent.
  process.on('disconnect', () => process.exit(0));
  process.on('message', async (file: string) => {
    process.send?.('begun');
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

if (process.argv[2] === '--worker') await work();
else process.exit(await lead(process.argv.slice(2)));
