import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  className,
  type FashionMnistFiles,
  fashionMnistClasses,
  fashionMnistFiles,
  loadFashionMnist,
} from '../../src/data/fashion-mnist.ts';
import { packageRoot } from '../../src/formats/package-root.ts';
import { refuses, temporaryFolder } from '../formats/fuzz.ts';
import { root } from '../support.ts';
import { md5, sha256 } from '../support-data.ts';

/** Files of the same format: three images, of which every pixel is the image's number; and their sums. */
function standIn(labels = [9, 2, 1], size = 28): { folder: string; files: FashionMnistFiles } {
  const folder = temporaryFolder();
  const images = new Uint8Array(3 * size * 28).map((_, i) => Math.floor(i / (size * 28)));
  const write = (name: string, ...bytes: number[]) => {
    const content = Uint8Array.from(bytes);
    const file = gzipSync(content);
    writeFileSync(join(folder, name), file);
    const sums = { md5: md5(file), sha256: sha256(content) };
    return { name, size: file.length, ...sums, url: 'http://localhost:1/nowhere' };
  };
  const pair = (name: string) =>
    [
      write(`${name}-images-idx3-ubyte.gz`, 0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, size, 0, 0, 0, 28, ...images),
      write(`${name}-labels-idx1-ubyte.gz`, 0, 0, 8, 1, 0, 0, 0, labels.length, ...labels),
    ] as const;
  return { folder, files: { train: pair('train'), test: pair('t10k') } };
}

test('images and labels', () => {
  const { folder, files } = standIn();
  const { images, labels, shape } = loadFashionMnist({ folder, offset: 1, count: 2 }, files);
  assert.equal(shape, [2, 28, 28, 1]);
  assert.equal(labels, [2, 1]);
  assert.is(images.length, 2 * 784);
  assert.equal([images[0], images[784]], [Math.fround(1 / 255), Math.fround(2 / 255)]);
  const some = loadFashionMnist({ folder, split: 'train', indices: [2, 0] }, files);
  assert.equal(some.labels, [1, 9]);
  assert.equal([some.images[0], some.images[784]], [Math.fround(2 / 255), 0]);
});

test('files lie in the folder or where torchvision keeps them', () => {
  const { folder, files } = standIn();
  const root = temporaryFolder();
  mkdirSync(join(root, 'FashionMNIST'));
  renameSync(folder, join(root, 'FashionMNIST', 'raw'));
  assert.equal(loadFashionMnist({ folder: root }, files).labels, [9, 2, 1]);
});

test('the content counts, not how it is packed: Debian’s files are others than the published', () => {
  const { folder, files } = standIn();
  const path = join(folder, files.test[0].name);
  const content = gunzipSync(readFileSync(path));
  writeFileSync(path, gzipSync(content, { level: 1 }));
  assert.not.equal(md5(readFileSync(path)), files.test[0].md5);
  assert.equal(loadFashionMnist({ folder }, files).labels, [9, 2, 1]);
  content[content.length - 1]! ^= 1;
  writeFileSync(path, gzipSync(content));
  refuses(() => loadFashionMnist({ folder }, files), 'changed or damaged', files.test[0].sha256);
  writeFileSync(path, gzipSync(content).subarray(0, 40));
  refuses(() => loadFashionMnist({ folder }, files), 'damaged gzip data (40 bytes)', 'get the file again');
});

test('Debian’s package, where it is installed', () => {
  const folder = '/usr/share/datasets/fashion-mnist';
  if (!existsSync(join(folder, fashionMnistFiles.test[0].name))) {
    process.stderr.write(`skipped: no package dataset-fashion-mnist in ${folder}\n`);
    return;
  }
  const shipped = loadFashionMnist();
  const first = loadFashionMnist({ folder, split: 'test', count: 1000 });
  assert.equal([first.images, first.labels], [shipped.images, shipped.labels]);
  assert.is(loadFashionMnist({ folder, split: 'train' }).labels.length, 60000);
});

test('what is not there is refused', () => {
  const { folder, files } = standIn();
  refuses(
    () => loadFashionMnist({ folder, offset: 1, count: 3 }, files),
    '3 images from 1',
    'test split holds 3',
  );
  refuses(() => loadFashionMnist({ folder, count: 0 }, files), '0 images');
  refuses(() => loadFashionMnist({ folder, offset: -1 }, files), 'from -1');
  refuses(() => loadFashionMnist({ count: 1001 }), '1001 images', 'the package holds 1000');
  const wrong = (...parts: Parameters<typeof standIn>) => {
    const { folder, files } = standIn(...parts);
    return () => loadFashionMnist({ folder }, files);
  };
  refuses(wrong([1, 2]), 't10k-labels', '2 labels', '3 images');
  refuses(wrong([1, 10, 2]), 'label 10 of image 1');
  refuses(wrong([1, 2, 3], 27), '3 x 27 x 28');
  refuses(
    () => loadFashionMnist({ folder }),
    't10k-images-idx3-ubyte.gz',
    'the sha256 of its content is',
    fashionMnistFiles.test[0].sha256,
    'cmap data fashion-mnist',
  );
  refuses(
    () => loadFashionMnist({ folder: 'nowhere' }),
    'nowhere',
    'no such folder',
    'cmap data fashion-mnist',
  );
  refuses(
    () => loadFashionMnist({ folder: root, split: 'train' }),
    'train-images-idx3-ubyte.gz',
    'is not there',
  );
  refuses(() => loadFashionMnist({ split: 'val' as 'test' }), "'val'");
});

test('the images of the package', () => {
  const { images, labels, shape } = loadFashionMnist();
  assert.equal(shape, [1000, 28, 28, 1]);
  assert.is(images.length, 784000);
  // The test set begins with an ankle boot, a pullover and two trousers.
  assert.equal(
    labels.slice(0, 4).map((label) => className(label)),
    ['Ankle boot', 'Pullover', 'Trouser', 'Trouser'],
  );
  assert.is(new Set(labels).size, 10);
  assert.ok(Math.max(...images.subarray(0, 784)) === 1 && Math.min(...images.subarray(0, 784)) === 0);
});

test('names', () => {
  assert.is(fashionMnistClasses.length, 10);
  assert.is(className(7), 'Sneaker');
  assert.is(className(12), '12');
  assert.ok(packageRoot().length > 0);
});

test.run();
