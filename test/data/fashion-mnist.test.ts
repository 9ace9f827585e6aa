import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { className, fashionMnistClasses, loadFashionMnist } from '../../src/data/fashion-mnist.ts';
import { packageRoot } from '../../src/formats/package-root.ts';
import { refuses, temporaryFolder } from '../formats/fuzz.ts';

/** Files of the same format: three images, of which every pixel is the image's number. */
function standIn(labels = [9, 2, 1], size = 28): string {
  const folder = temporaryFolder();
  const images = new Uint8Array(3 * size * 28).map((_, i) => Math.floor(i / (size * 28)));
  const write = (name: string, ...bytes: number[]) =>
    writeFileSync(join(folder, name), gzipSync(Uint8Array.from(bytes)));
  write('t10k-images-first1000.idx3-ubyte.gz', 0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, size, 0, 0, 0, 28, ...images);
  write('t10k-labels-first1000.idx1-ubyte.gz', 0, 0, 8, 1, 0, 0, 0, labels.length, ...labels);
  return folder;
}

test('images and labels', () => {
  const { images, labels, shape } = loadFashionMnist({ folder: standIn(), offset: 1, count: 2 });
  assert.equal(
    [shape, labels],
    [
      [2, 28, 28, 1],
      [2, 1],
    ],
  );
  assert.is(images.length, 2 * 784);
  assert.equal([images[0], images[784]], [Math.fround(1 / 255), Math.fround(2 / 255)]);
  assert.equal(loadFashionMnist({ folder: standIn() }).labels, [9, 2, 1]);
});

test('what is not there is refused', () => {
  const folder = standIn();
  refuses(() => loadFashionMnist({ folder, offset: 1, count: 3 }), '3 images from 1', 'holds 3');
  refuses(() => loadFashionMnist({ folder, count: 0 }), '0 images');
  refuses(() => loadFashionMnist({ folder, offset: -1 }), 'from -1');
  refuses(() => loadFashionMnist({ folder: standIn([1, 2]) }), 'labels-first1000', '2 labels', '3 images');
  refuses(() => loadFashionMnist({ folder: standIn([1, 10, 2]) }), 'label 10 of image 1');
  refuses(() => loadFashionMnist({ folder: standIn([1, 2, 3], 27) }), '3 x 27 x 28');
  refuses(() => loadFashionMnist({ folder: 'nowhere' }), 'nowhere', 'no such file');
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
