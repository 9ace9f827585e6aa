/**
 * Runs every test file in this process, one after another (they share one device), and ends with one line that
 * counts them: `N passed, N failed`. Arguments choose files whose names contain one of them; those of test/full,
 * which take an hour on two CPU cores, run only with `--full`.
 */
import { readdirSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const full = process.argv.includes('--full');
const chosen = process.argv.slice(2).filter((word) => !word.startsWith('--'));
const files = readdirSync(here, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.test.js') && /^full[/\\]/.test(file) === full)
  .filter((file) => chosen.length === 0 || chosen.some((part) => file.includes(part)))
  .sort();

// uvu reads these when it loads: suites are queued by file and run on exec().
const globals = globalThis as unknown as { UVU_DEFER: number; UVU_QUEUE: unknown[][]; UVU_INDEX: number };
globals.UVU_DEFER = 1;
globals.UVU_QUEUE = [];
const { exec } = await import('uvu');
let index = 0;
for (const file of files) {
  globals.UVU_INDEX = index++;
  globals.UVU_QUEUE.push([relative(here, join(here, file))]);
  await import(pathToFileURL(join(here, file)).href);
}
// Each file's first word is its name, the rest run its suites.
const seconds = new Map<string, number>();
for (const [file, ...suites] of globals.UVU_QUEUE.splice(0)) {
  const timed = (suites as ((...args: unknown[]) => Promise<unknown>)[]).map(
    (suite) =>
      async (...args: unknown[]) => {
        const start = performance.now();
        try {
          return await suite(...args);
        } finally {
          const before = seconds.get(String(file)) ?? 0;
          seconds.set(String(file), before + (performance.now() - start) / 1000);
        }
      },
  );
  globals.UVU_QUEUE.push([file, ...timed]);
}
let output = '';
const write = process.stdout.write.bind(process.stdout);
process.stdout.write = ((chunk: string, ...rest: []) => {
  output += chunk;
  return write(chunk, ...rest);
}) as typeof process.stdout.write;
await exec();
process.stdout.write = write;
// biome-ignore lint/suspicious/noControlCharactersInRegex: uvu colours its summary
const plain = output.replace(/\u001b\[\d+m/g, '');
const total = Number(/Total:\s+(\d+)/.exec(plain)?.[1] ?? 0);
const passed = Number(/Passed:\s+(\d+)/.exec(plain)?.[1] ?? 0);
const failed = total - passed;
const slowest = [...seconds].sort((a, b) => b[1] - a[1]).slice(0, 8);
console.log(
  `slowest: ${slowest.map(([file, s]) => `${file.replace('.test.js', '')} ${s.toFixed(0)} s`).join(', ')}`,
);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 || total === 0 ? 1 : 0);
