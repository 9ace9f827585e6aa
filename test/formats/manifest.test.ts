import { createHash } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readManifest, resolveWeights } from '../../src/formats/manifest.ts';
import { root } from '../support.ts';
import { refuses, temporaryFolder } from './fuzz.ts';

const folder = temporaryFolder();
const content = Buffer.from('these are weights');
const entry = {
  file: 'net.safetensors',
  bytes: content.length,
  sha256: createHash('sha256').update(content).digest('hex'),
  kind: 'classifier',
  config: { depth: 10 },
  accuracy: 0.9,
};
const manifestPath = join(folder, 'manifest.json');
const path = join(folder, entry.file);
const write = (manifest: unknown) => writeFileSync(manifestPath, JSON.stringify(manifest));

test('whole weights are found', () => {
  write({ presets: { 'data set': { k: 4 } }, net: entry });
  writeFileSync(path, content);
  assert.equal(resolveWeights('net', folder), { path, entry });
  assert.equal(Object.keys(readManifest(folder)), ['net']);
  refuses(() => resolveWeights('toString', folder), manifestPath, 'no weights "toString"', 'net');
});

test('truncated, changed and missing weights are refused with the way out', () => {
  write({ net: entry });
  writeFileSync(path, content.subarray(0, 5));
  refuses(
    () => resolveWeights('net', folder),
    path,
    'truncated',
    'has 5 bytes',
    'says 17',
    'git checkout',
    'reinstall',
  );
  writeFileSync(path, Buffer.from('THESE are weights'));
  refuses(() => resolveWeights('net', folder), path, 'SHA-256', entry.sha256.slice(0, 12), 'git checkout');
  rmSync(path);
  refuses(() => resolveWeights('net', folder), path, 'no such file', 'git checkout');
});

test('a bad manifest is refused', () => {
  for (const [change, part] of [
    [{ file: '../secret' }, 'file is "../secret"'],
    [{ file: '/etc/passwd' }, 'file is'],
    [{ bytes: '17' }, 'bytes is "17"'],
    [{ sha256: 'abc' }, 'sha256 is "abc"'],
    [{ kind: 1 }, 'kind is 1'],
    [{ config: null }, 'no config'],
  ] as const) {
    write({ net: { ...entry, ...change } });
    refuses(() => readManifest(folder), `${manifestPath}: "net"`, part);
  }
  write({ net: null });
  refuses(() => readManifest(folder), 'file is undefined');
  write([]);
  refuses(() => readManifest(folder), 'not an object');
  writeFileSync(manifestPath, '{');
  refuses(() => readManifest(folder), manifestPath, 'not valid JSON');
  rmSync(manifestPath);
  refuses(() => readManifest(folder), manifestPath, 'no such file');
});

test('every shipped file says what it was trained on, how long, by which commit, and what it measures', () => {
  const { presets: _, ...shipped } = JSON.parse(readFileSync(join(root, 'weights', 'manifest.json'), 'utf8'));
  for (const [name, { training, quality }] of Object.entries<Record<string, Record<string, unknown>>>(
    shipped,
  )) {
    for (const key of ['data', 'seed', 'hardware', 'date', 'commit'])
      assert.ok(training?.[key], `${name}: training.${key}`);
    const stages = (training?.stages as Record<string, unknown>[] | undefined) ?? [training];
    const last = stages.at(-1) as Record<string, number>;
    assert.ok(last.command && last.steps! > 0 && last.seconds! > 0, `${name}: the last stage`);
    assert.ok(Object.keys(quality ?? {}).length > 0, `${name}: quality`);
  }
});

test.run();
