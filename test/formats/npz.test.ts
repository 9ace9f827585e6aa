import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readCheckpoint } from '../../src/formats/checkpoint.ts';
import { encodeNpy } from '../../src/formats/npy.ts';
import { root } from '../support.ts';
import { fuzzAsync, opened, refusesAsync } from './fuzz.ts';
import { makeZip } from './make-zip.ts';

const npy = encodeNpy({ shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) });
const open = (file: Uint8Array) => readCheckpoint(opened(file), 'f.npz');
const refused = (file: Uint8Array, ...parts: string[]) => refusesAsync(() => open(file), 'f.npz: ', ...parts);

test('stored and deflated arrays', async () => {
  const checkpoint = await open(
    makeZip([
      { name: 'a.npy', data: npy },
      { name: 'deep/b.npy', data: npy, deflate: true },
    ]),
  );
  assert.is(checkpoint.format, 'npz');
  assert.equal([...checkpoint.names], ['a', 'deep/b']);
  for (const name of checkpoint.names) assert.equal([...checkpoint.floats(name)], [1, 2, 3, 4]);
});

test('a header longer than what is read first', async () => {
  // Version 2 with a header padded to 8192 bytes.
  const header = `${new TextDecoder().decode(npy.subarray(10, 10 + 60)).split('}')[0]}}`.padEnd(8191);
  const long = Buffer.concat([
    Buffer.from('\x93NUMPY\x02\x00\x00\x20\x00\x00', 'latin1'),
    Buffer.from(`${header}\n`),
    npy.subarray(npy.length - 16),
  ]);
  const checkpoint = await open(makeZip([{ name: 'a.npy', data: long, deflate: true }]));
  assert.equal([...checkpoint.floats('a')], [1, 2, 3, 4]);
});

test('bad archives are refused', async () => {
  await refused(makeZip([]), 'a zip archive, but neither', '0 entries');
  await refused(makeZip([{ name: 'a.txt', data: npy }]), 'neither', '"a.txt"');
  await refused(makeZip([{ name: 'a.npy', data: npy.subarray(0, npy.length - 1) }]), 'array "a": truncated');
  await refused(
    makeZip([{ name: 'a.npy', data: Buffer.concat([npy, npy]), deflate: true }]),
    'array "a": too long',
  );
  await refused(makeZip([{ name: 'a.npy', data: Buffer.from('x'.repeat(200)) }]), 'not a .npy file');
  await refused(makeZip([{ name: '../a.npy', data: npy }]), 'not a whole zip archive');
  await refused(
    makeZip([{ name: 'a.npy', data: npy, deflate: true, size: 2 ** 32 - 2 }]),
    'which deflate cannot',
  );
  const bad = await open(makeZip([{ name: 'a.npy', data: npy, deflate: true, crc: 7 }]));
  await refusesAsync(async () => bad.floats('a'), 'f.npz: entry "a.npy"', 'CRC-32', '00000007');
});

test('damaged files are read or refused', async () => {
  const read = async (file: Uint8Array) => {
    const checkpoint = await readCheckpoint(opened(file), 'fuzz');
    for (const name of checkpoint.names) assert.ok(checkpoint.floats(name).length <= 1000 * file.length);
  };
  for (const name of ['stored.npz', 'deflated.npz']) {
    const good = new Uint8Array(readFileSync(join(root, 'test', 'fixtures', 'formats', name)));
    await fuzzAsync(good, read, good.length, 200);
  }
});

test.run();
