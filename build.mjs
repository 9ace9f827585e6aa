// Bundles src/ into dist/ (library, command line and the thread that makes training's batches; with --test the tests, with --bench the benchmark). WGSL files become strings; only
// the packages that an installation brings stay outside the bundles.
import { readdirSync, readFileSync, rmSync } from 'node:fs';
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

if (process.argv.includes('--test')) {
  rmSync('dist/test', { recursive: true, force: true });
  const tests = readdirSync('test', { recursive: true }).filter((file) => file.endsWith('.test.ts'));
  const entryPoints = ['test/run.ts', ...tests.map((file) => `test/${file}`)];
  await build({ ...shared, entryPoints, outdir: 'dist/test', outbase: 'test' });
}
if (process.argv.includes('--bench')) {
  await build({ ...shared, entryPoints: { main: 'bench/main.ts' }, outdir: 'dist/bench' });
}
