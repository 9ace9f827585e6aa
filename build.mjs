// Bundles src/ into dist/: library, command line, the thread that makes training's batches, the library for browsers and the
// page; with --test the tests, with --bench the benchmark, with --examples what stands in examples/. WGSL files become
// strings; only the packages that an installation brings stay outside the bundles.
import { cpSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { build } from 'esbuild';

const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8'));
const shared = {
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  mainFields: ['module', 'main'],
  sourcemap: 'linked',
  splitting: true,
  chunkNames: 'chunks/[name]-[hash]',
  loader: { '.wgsl': 'text' },
  external: [...Object.keys(dependencies), 'uvu'].flatMap((name) => [name, `${name}/*`]),
  logLevel: 'warning',
};

rmSync('dist/chunks', { recursive: true, force: true });
const entryPoints = {
  index: 'src/index.ts',
  cli: 'src/cli/main.ts',
  'batch-worker': 'src/train/batch-worker.ts',
};
await build({ ...shared, entryPoints, outdir: 'dist' });

// For browsers nothing stays outside; package.json's `browser` leaves out what is Node's.
const browser = { ...shared, platform: 'browser', target: 'es2022', splitting: false, external: [] };
await build({ ...browser, entryPoints: { browser: 'src/browser.ts' }, outdir: 'dist' });
await build({ ...browser, entryPoints: { main: 'web/main.ts' }, outdir: 'dist/web', minify: true });
for (const name of ['index.html', 'style.css']) cpSync(`web/${name}`, `dist/web/${name}`);

if (process.argv.includes('--test')) {
  rmSync('dist/test', { recursive: true, force: true });
  const tests = readdirSync('test', { recursive: true }).filter((file) => file.endsWith('.test.ts'));
  const entryPoints = ['test/run.ts', ...tests.map((file) => `test/${file}`)];
  await build({ ...shared, entryPoints, outdir: 'dist/test', outbase: 'test' });
}
if (process.argv.includes('--examples')) {
  const entryPoints = readdirSync('examples').map((file) => `examples/${file}`);
  await build({ ...shared, entryPoints, outdir: 'dist/examples' });
}
if (process.argv.includes('--bench')) {
  await build({ ...shared, entryPoints: { main: 'bench/main.ts' }, outdir: 'dist/bench' });
}
