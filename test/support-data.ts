/** CIFAR-10 for tests, where `sharedData()` has it; and small stand-ins of the data sets for those that need no real bytes. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Cifar10Files } from '../src/data/cifar10.ts';
import { numbers, temporaryFolder } from './formats/fuzz.ts';
import { sharedData } from './support.ts';

const batches = {
  test: ['test_batch'],
  train: ['data_batch_1', 'data_batch_2', 'data_batch_3', 'data_batch_4', 'data_batch_5'],
} as const;
const unpacked = new Map<string, Promise<string | null>>();

/**
 * A folder with the binary batches of a split, unpacked once a process (1 to 1.5 s a batch) and removed at its end;
 * null, said on stderr, where the shared data are not there.
 */
export function unpackedCifar10(split: 'train' | 'test'): Promise<string | null> {
  const known = unpacked.get(split) ?? unpack(split);
  unpacked.set(split, known);
  return known;
}

async function unpack(split: 'train' | 'test'): Promise<string | null> {
  const packed = sharedData() && join(sharedData() as string, 'cifar10');
  if (!packed || !existsSync(join(packed, 'codec.mjs'))) {
    process.stderr.write(`skipped: no CIFAR-10 in ${packed ?? 'CMAP_TEST_DATA or ../shared/data'}\n`);
    return null;
  }
  const folder = temporaryFolder();
  for (const name of batches[split]) {
    const files = [join(packed, `${name}.medz`), join(folder, `${name}.bin`)];
    await promisify(execFile)(process.execPath, [join(packed, 'codec.mjs'), 'unpack', ...files]);
  }
  return folder;
}

export const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
export const md5 = (bytes: Uint8Array) => createHash('md5').update(bytes).digest('hex');

/** Batches in the layout of CIFAR-10 with a few random images, and the sums that make them "published". */
export function standInCifar10(records = 4): { files: Cifar10Files; contents: Map<string, Uint8Array> } {
  const random = numbers(records);
  const contents = new Map<string, Uint8Array>();
  const published = (name: string) => {
    const bytes = Uint8Array.from({ length: records * 3073 }, (_, i) =>
      Math.floor(random() * (i % 3073 === 0 ? 10 : 256)),
    );
    contents.set(name, bytes);
    return { name, size: bytes.length, md5: md5(bytes) };
  };
  const files = {
    records,
    batches: { train: batches.train.map(published), test: batches.test.map(published) },
    archive: { name: 'cifar-10-binary.tar.gz', url: 'http://localhost:1/nowhere', size: 0, md5: '' },
  };
  return { files, contents };
}
