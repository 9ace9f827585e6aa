/**
 * Published CIFAR-10 networks on the 10,000 test images: the accuracy PyTorch has, and its very predictions, except
 * where its two largest logits are closer than 0.01 (test/fixtures/nets/real, written by reference/predictions.py).
 */
import { readdirSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadCifar10 } from '../../src/data/cifar10.ts';
import { openCheckpoint } from '../../src/formats/checkpoint.ts';
import { argmax } from '../../src/kernels/reduce.ts';
import { ClassifierNet } from '../../src/nets/classifier.ts';
import { network } from '../../src/nets/registry.ts';
import { writeFileAtomic } from '../../src/report/files.ts';
import { loadFixture, root, sharedData, testDevice } from '../support.ts';
import { unpackedCifar10 } from '../support-data.ts';

/** Network, fixture, accuracy in percent as its publisher or the data's README states it, on how many images. */
const nets: readonly (readonly [net: string, fixture: string, stated: number, images: number])[] = [
  ['resnet20', 'resnet20', 91.73, 10000],
  ['resnet32', 'resnet32', 92.63, 10000],
  ['resnet44', 'resnet44', 93.1, 10000],
  ['resnet56', 'resnet56', 93.39, 10000],
  ['resnet2b', 'resnet2b', 70.3, 1000],
  ['resnet4b', 'resnet4b', 77.1, 1000],
  ['cnn_a', 'cifar_cnn_a_adv', 70.3, 1000],
  ['cnn_a', 'cifar_cnn_a_adv4', 60.2, 1000],
  ['cnn_a', 'cifar_cnn_a_mix4', 72.8, 1000],
  ['conv_small', 'cifar_conv_small_pgd', 63.0, 1000],
];
const batch = 500;
const rows: string[][] = [];

for (const [name, fixtureName, stated, images] of nets) {
  test(`${fixtureName}: accuracy and predictions of PyTorch on 10,000 images`, async () => {
    const data = sharedData();
    const folder = await unpackedCifar10('test');
    if (!data || !folder) return;
    const fixture = loadFixture(`nets/real/${fixtureName}`);
    const group =
      fixtureName.startsWith('resnet') && !fixtureName.endsWith('b') ? 'cifar_resnet' : 'cifar_robust';
    const file = readdirSync(`${data}/${group}`).find((f) => f === fixture.metadata.file) as string;
    const device = await testDevice();
    const source = await openCheckpoint(`${data}/${group}/${file}`);
    const found = network(name, undefined, source);
    if (found.kind !== 'classifier') throw new Error(`${name} is no classifier`);
    const net = ClassifierNet.load(device, found.architecture, source);
    source.close();
    const { images: pixels, labels } = loadCifar10({ split: 'test', folder });
    const x = device.zeros([batch, 32, 32, 3]);
    const program = device.record(name, () => argmax(net.logits(x)));
    const predictions: number[] = [];
    for (let from = 0; from < labels.length; from += batch) {
      x.write(pixels.subarray(from * 3072, (from + batch) * 3072));
      predictions.push(...(await program.run().read()));
    }
    program.dispose();
    x.dispose();
    net.dispose();
    const correct = (count: number) => predictions.slice(0, count).filter((p, i) => p === labels[i]).length;
    const theirs = [...fixture.get('labels').data];
    const ties = new Set(fixture.get('near_ties').data);
    const different = predictions.flatMap((p, i) => (p === theirs[i] ? [] : [i]));
    console.log(
      `  ${fixtureName}: ${correct(10000) / 100} % of 10,000; other predictions than PyTorch: ${different.length === 0 ? 'none' : different.join(', ')} (near-ties: ${ties.size})`,
    );
    assert.is(predictions.length, 10000);
    assert.ok(
      different.every((i) => ties.has(i)),
      `differs from PyTorch at ${different.filter((i) => !ties.has(i))}`,
    );
    rows.push([
      `\`${found.name}\``,
      `\`${file}\``,
      (correct(10000) / 100).toFixed(2),
      (Number(fixture.metadata.correct) / 100).toFixed(2),
      String(ties.size),
      different.join(', ') || 'none',
    ]);
    // The stated figure has two or three digits; near-ties may move it by their number.
    const measured = (100 * correct(images)) / images;
    const slack = (100 * different.length) / images + (images === 1000 ? 0.05 : 0.005);
    assert.ok(Math.abs(measured - stated) <= slack + 1e-9, `${measured} %, stated ${stated} %`);
  });
}

test.after(async () => {
  if (process.env.CMAP_WRITE_DOCS !== '1' || rows.length < nets.length) return;
  const { adapter } = await testDevice();
  writeFileAtomic(
    `${root}docs/real-weights.md`,
    `# Published CIFAR-10 networks on their real weights

Written by \`CMAP_WRITE_DOCS=1 npm run test:full -- real-weights\` on ${new Date().toISOString().slice(0, 10)}, ${adapter.name}: all 10,000 test images, the
checkpoints as they were published (PyTorch's legacy pickle or zip). _Different_ are the images to which PyTorch 1.13 in
float32 gives another label; the test allows that only for near-ties, two largest logits closer than 0.01.

| network | file | accuracy % | PyTorch % | near-ties | different |
| --- | --- | ---: | ---: | ---: | --- |
${rows.map((row) => `| ${row.join(' | ')} |`).join('\n')}
`,
  );
});

test.run();
