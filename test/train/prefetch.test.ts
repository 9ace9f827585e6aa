/** Batches of worker threads: those of one thread, in any order, with the images in memory once. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { InputError } from '../../src/engine/errors.ts';
import { encodePng } from '../../src/formats/png.ts';
import { Batches } from '../../src/train/batches.ts';
import { configure } from '../../src/train/config.ts';
import { loadTrainingData } from '../../src/train/data.ts';
import { BatchWorkers } from '../../src/train/prefetch.ts';
import { lcg } from '../support.ts';

const test = suite('prefetch');
const folder = mkdtempSync(join(tmpdir(), 'cmap-prefetch-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

const random = lcg(3);
const byte = () => Math.floor(127.5 * (1 + random()));
const set = {
  name: 'noise',
  images: Uint8Array.from({ length: 10 * 192 }, byte),
  labels: Array.from({ length: 10 }, (_, i) => i),
  shape: [10, 8, 8, 3] as const,
};
const options = { batch: 4, seed: 1, signed: true, augment: 0.5, crop: 2 };

test('they are the batches of one thread bit for bit, asked for in any order and again', async () => {
  const [workers, plain] = [new BatchWorkers(set, options, 9, 2), new Batches(set, options)];
  try {
    for (const step of [0, 1, 2, 6, 3, 0, 8, 12]) {
      await workers.ready(step);
      assert.equal(workers.at(step), plain.at(step), `batch ${step}`);
      assert.throws(() => workers.at(step), /taken before it was ready/, 'it is not kept');
    }
  } finally {
    workers.dispose();
  }
});

test('images are decoded into memory that the threads share; a damaged file spoils its own batch alone', async () => {
  for (const split of ['train', 'val'])
    for (let i = 0; i < 6; i++) {
      mkdirSync(join(folder, split, 'cat'), { recursive: true });
      const image = {
        width: 8,
        height: 8,
        channels: 3 as const,
        data: Uint8Array.from({ length: 192 }, byte),
      };
      writeFileSync(join(folder, split, 'cat', `${i}.png`), encodePng(image));
    }
  const config = configure('fashion-mnist-wrn', ['dataset=image-folder', `data=${folder}`]);
  const { train: files } = await loadTrainingData(config, 8);
  const two = { batch: 2, seed: 0 };
  const [lost] = new Batches(files, two).indices(1) as [number];
  const path = join(folder, 'train', 'cat', `${lost}.png`);
  writeFileSync(path, 'no image');
  const workers = new BatchWorkers(files, two, 3, 2);
  try {
    await workers.ready(0);
    const failed = await workers.ready(1).catch((e: Error) => e);
    assert.ok(failed instanceof InputError && failed.message.startsWith(`${path}: neither`), String(failed));
    await workers.ready(2);
    const { decoded } = files.files as NonNullable<typeof files.files>;
    assert.equal([decoded[lost], decoded.reduce((a, b) => a + b)], [0, 4], 'of the spoiled batch nothing');
    const batches = new Batches(files, two);
    for (const step of [2, 0])
      assert.equal(workers.at(step), batches.at(step), 'this thread sees what the others decoded');
  } finally {
    workers.dispose();
  }
});

test.run();
