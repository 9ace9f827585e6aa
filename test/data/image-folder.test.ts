import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ImageFolder, readRgb } from '../../src/data/image-folder.ts';
import { evaluationTransform } from '../../src/data/transforms.ts';
import { toRgb } from '../../src/formats/image.ts';
import { decodeJpeg } from '../../src/formats/jpeg.ts';
import { encodePng } from '../../src/formats/png.ts';
import { refuses, temporaryFolder } from '../formats/fuzz.ts';
import { loadFixture, sharedData } from '../support.ts';

const fixture = loadFixture('data/images');
const file = (name: string) => fixture.get(`${name}.file`).data as unknown as Uint8Array;

function folder(content: Record<string, string | Uint8Array>): string {
  const root = temporaryFolder();
  for (const [name, bytes] of Object.entries(content)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), bytes);
  }
  return root;
}

/** An image of one colour. */
const dot = (value: number) =>
  encodePng({ width: 2, height: 2, channels: 1, data: new Uint8Array(4).fill(value) });

async function rejects(promise: Promise<unknown>, ...parts: string[]): Promise<void> {
  const error = await promise.then(
    () => null,
    (reason) => reason,
  );
  refuses(
    () => {
      if (error) throw error;
    },
    ...parts,
  );
}

test('classes by name, files as a walk finds them, other files left out', async () => {
  const root = folder({
    'b/2.png': dot(2),
    'b/10.PNG': dot(10),
    'b/sub/1.png': dot(1),
    'b/sub.png': dot(4),
    'B/x.jpeg': file('420.jpg'),
    'a/note.txt': 'hello',
    'a/.hidden.png': dot(9),
    'a/only.jpg': file('gray.jpg'),
    '.git/x.png': dot(7),
    'readme.md': 'hello',
  });
  const images = new ImageFolder(root);
  assert.equal(images.classes, ['B', 'a', 'b']);
  assert.equal(images.names, images.classes);
  assert.is(images.length, 6);
  assert.equal(
    Array.from({ length: 6 }, (_, i) => `${images.label(i)} ${relative(root, images.path(i))}`),
    ['0 B/x.jpeg', '1 a/only.jpg', '2 b/10.PNG', '2 b/2.png', '2 b/sub.png', '2 b/sub/1.png'],
  );
  assert.equal((await images.image(2)).data, new Uint8Array(12).fill(10));
  const { labels, shape, images: floats } = await images.load(16, { indices: [3, 0] });
  assert.equal(shape, [2, 16, 16, 3]);
  assert.equal(labels, [2, 0]);
  assert.ok(floats.subarray(0, 768).every((value) => value === Math.fround(2 / 255)));
  assert.equal(floats.subarray(768), evaluationTransform(toRgb(await decodeJpeg(file('420.jpg'), 'x')), 16));
  refuses(() => images.path(6), 'image 6 is not there', 'holds 6');
  await rejects(images.load(16, { count: 7 }), '7 images from 0', 'the folder holds 6');
});

test('splits, their parts, and the order of Labels.json', () => {
  const root = folder({
    'train.X1/n1/a.png': dot(1),
    'train.X1/n2/c.png': dot(1),
    'train.X2/n1/0.png': dot(1),
    'train.X2/n3/b.png': dot(1),
    'val/n1/v.png': dot(1),
    'val/n2/v.png': dot(1),
    'val/n3/v.png': dot(1),
    'Labels.json': '{"n3": "tench", "n1": "kite", "n2": "drake"}',
  });
  const train = new ImageFolder(root, { split: 'train' });
  assert.equal(train.classes, ['n1', 'n2', 'n3']);
  assert.equal(train.names, ['kite', 'drake', 'tench']);
  assert.equal(
    Array.from({ length: 4 }, (_, i) => relative(root, train.path(i))),
    ['train.X2/n1/0.png', 'train.X1/n1/a.png', 'train.X1/n2/c.png', 'train.X2/n3/b.png'],
  );
  const val = new ImageFolder(root, { split: 'val', order: 'Labels.json' });
  assert.equal(val.classes, ['n3', 'n1', 'n2']);
  assert.equal(val.names, ['tench', 'kite', 'drake']);
  assert.equal([relative(root, val.path(0)), val.label(2)], ['val/n3/v.png', 2]);
  refuses(() => new ImageFolder(root), 'train.X1, train.X2, val', 'say which split');
  refuses(() => new ImageFolder(join(root, 'val'), { split: 'val' }), 'holds no folder val');
});

test('a class folder that is a link', () => {
  const root = folder({ 'a/1.png': dot(1) });
  symlinkSync(join(root, 'a'), join(root, 'b'));
  assert.is(new ImageFolder(root).length, 2);
});

test('folders that do not fit are refused', async () => {
  refuses(() => new ImageFolder('nowhere'), 'nowhere', 'no such');
  refuses(() => new ImageFolder(folder({ 'a.png': dot(1) })), 'no class folders');
  const empty = new ImageFolder(folder({ 'a/1.png': dot(1), 'b/1.txt': '' }));
  refuses(() => empty.length, 'b: holds no .png');
  const labelled = (labels: string) => () =>
    new ImageFolder(folder({ 'a/1.png': dot(1), 'b/1.png': dot(1), 'Labels.json': labels }), {
      order: 'Labels.json',
    });
  refuses(labelled('{"a": "x"}'), 'does not name the class folder b');
  refuses(labelled('["a"]'), 'no object');
  refuses(labelled('{'), 'JSON');
  refuses(() => new ImageFolder(folder({ 'a/1.png': dot(1) }), { order: 'Labels.json' }), 'no such file');
});

test('a file is told by its content', async () => {
  const root = folder({
    'a/1.jpg': dot(3),
    'a/2.png': file('420.jpg'),
    'a/3.png': 'GIF89a',
    'a/4.jpg': file('cmyk.jpg'),
  });
  const images = new ImageFolder(root);
  assert.equal((await images.image(0)).data, new Uint8Array(12).fill(3));
  assert.is((await images.image(1)).width, 45);
  await rejects(images.image(2), '3.png: neither a PNG nor a JPEG');
  await rejects(images.load(16), '3.png');
  await rejects(images.image(3), '4.jpg', 'CMYK');
});

test('real images of ImageNet-100, one a class', async () => {
  const shared = sharedData() && join(sharedData() as string, 'imagenet100');
  if (!shared || !existsSync(join(shared, 'samples_64px'))) {
    process.stderr.write('skipped: no ImageNet-100 samples\n');
    return;
  }
  const labels: Record<string, string> = JSON.parse(readFileSync(join(shared, 'Labels.json'), 'utf8'));
  const names = Object.keys(labels);
  const sample = (name: string) => readFileSync(join(shared, 'samples_64px', `${name}.png`));
  const root = folder({
    ...Object.fromEntries(names.map((name) => [`val/${name}/0.png`, sample(name)])),
    'Labels.json': JSON.stringify(labels),
  });
  const images = new ImageFolder(root, { split: 'val', order: 'Labels.json' });
  assert.equal(images.classes, names);
  const { shape, images: floats } = await images.load(64);
  assert.equal(shape, [100, 64, 64, 3]);
  const direct = await readRgb(join(shared, 'samples_64px', `${names[7]}.png`));
  assert.equal(
    floats.subarray(7 * 12288, 8 * 12288),
    Float32Array.from(direct.data, (value) => value / 255),
  );
});

test.run();
