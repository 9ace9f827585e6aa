// Bundles src/ into dist/ (library, command line, and with --test the tests). WGSL files become strings.
import { readdirSync } from 'node:fs';
import { build } from 'esbuild';

const shared = {
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  mainFields: ['module', 'main'],
  sourcemap: 'linked',
  loader: { '.wgsl': 'text' },
  packages: 'external',
  alias: {},
  logLevel: 'warning',
  outdir: 'dist',
};

await build({
  ...shared,
  entryPoints: { index: 'src/index.ts', cli: 'src/cli/main.ts' },
  splitting: true,
  chunkNames: 'chunks/[name]-[hash]',
  banner: { js: '' },
});

if (process.argv.includes('--test')) {
  const tests = readdirSync('test', { recursive: true }).filter((file) => file.endsWith('.test.ts'));
  await build({
    ...shared,
    entryPoints: ['test/run.ts', ...tests.map((file) => `test/${file}`)],
    outdir: 'dist/test',
    outbase: 'test',
    splitting: true,
    chunkNames: 'chunks/[name]-[hash]',
  });
}
