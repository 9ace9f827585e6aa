/** Training on as many images as CIFAR-10 has: it begins, and its threads share one copy of them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { configure } from '../../src/train/config.ts';
import { loadTrainingData, sharedBytes, type TrainingData } from '../../src/train/data.ts';
import { train } from '../../src/train/loop.ts';
import { testDevice } from '../support.ts';
import { unpackedCifar10 } from '../support-data.ts';

const [count, bytes, workers] = [50_000, 50_000 * 3072, 4];

/** As many images as there are training images, each of another colour. */
function synthetic(): TrainingData {
  const images = sharedBytes(bytes);
  for (let i = 0; i < count; i++) images.fill(i % 251, i * 3072, (i + 1) * 3072);
  const set = { name: 'colours', images, labels: new Uint8Array(count), shape: [count, 32, 32, 3] as const };
  return { train: set, test: null, classes: 10 };
}

test('50,000 images of 32 x 32 x 3: updates are made, and four threads share one copy', async () => {
  const device = await testDevice();
  const folder = mkdtempSync(join(tmpdir(), 'cmap-train-full-'));
  const real = await unpackedCifar10('train');
  const config = configure('cifar10-edm', [
    ...[
      'steps=4',
      'batch=16',
      'augment=0.12',
      'flip=false',
      'sample_every=0',
      `workers=${workers}`,
      'net_config.nf=8',
    ],
    ...(real ? [`data=${real}`] : []),
  ]);
  const before = process.memoryUsage().rss;
  let most = 0;
  try {
    const data = real ? await loadTrainingData(config, 32) : synthetic();
    assert.equal(data.train.shape, [count, 32, 32, 3]);
    const onStep = () => {
      most = Math.max(most, process.memoryUsage().rss - before);
    };
    const { steps, loss } = await train(device, config, data, { out: folder }, { onStep });
    assert.ok(steps === 4 && Number.isFinite(loss), `${steps} updates, loss ${loss}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  // The files as read and the images, then 60 MB a thread and 300 MB for the driver and the network; a copy a thread would be 600 MB more.
  const bound = 2 * bytes + workers * 60e6 + 300e6;
  assert.ok(most < bound, `${most} bytes in use, at most ${bound} are expected`);
  console.log(`50,000 images ${real ? 'of CIFAR-10' : 'made up'}: ${Math.round(most / 1e6)} MB`);
});

test.run();
