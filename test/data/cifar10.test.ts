import { mkdirSync, mkdtempSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { create } from 'tar';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  checkLabels,
  cifar10Classes,
  cifar10Files,
  fromPickle,
  loadCifar10,
} from '../../src/data/cifar10.ts';
import { fuzz, refuses, temporaryFolder } from '../formats/fuzz.ts';
import { standInCifar10, unpackedCifar10 } from '../support-data.ts';

const root = temporaryFolder();
const fresh = () => mkdtempSync(join(root, 'folder-'));
const { files, contents } = standInCifar10();
const names = [...contents.keys()];
const content = (name: string) => contents.get(name) as Uint8Array;

function folderOf(write: (folder: string, name: string) => void, below = ''): string {
  const folder = join(fresh(), below);
  mkdirSync(folder, { recursive: true });
  for (const name of names) write(folder, name);
  return folder;
}
const writeBinary = (folder: string, name: string) =>
  writeFileSync(join(folder, `${name}.bin`), content(name));
const writePickle = (folder: string, name: string) =>
  writeFileSync(join(folder, name), pickleOf(content(name)));

/** A batch as Python 2 pickled it for CIFAR-10: protocol 2, byte strings, a NumPy array. */
function pickleOf(batch: Uint8Array, { labels = [] as number[], key = 'data' } = {}): Buffer {
  const n = batch.length / 3073;
  const short = (text: string) => Buffer.from(`U${String.fromCharCode(text.length)}${text}`, 'latin1');
  const integer = (value: number) => Buffer.concat([Buffer.from('J'), word(value)]);
  const word = (value: number) => {
    const bytes = Buffer.alloc(4);
    bytes.writeInt32LE(value);
    return bytes;
  };
  const pixels = Buffer.alloc(n * 3072);
  const all = labels.length > 0 ? labels : Array.from({ length: n }, (_, i) => batch[i * 3073] as number);
  for (let i = 0; i < n; i++) pixels.set(batch.subarray(i * 3073 + 1, (i + 1) * 3073), i * 3072);
  return Buffer.concat([
    Buffer.from('\x80\x02}q\x01(', 'latin1'),
    ...[
      short('batch_label'),
      short('testing batch 1 of 1'),
      short('labels'),
      Buffer.from(']q\x02(', 'latin1'),
    ],
    ...all.map((label) => (label < 256 && label >= 0 ? Buffer.of(0x4b, label) : integer(label))),
    ...[
      Buffer.from('e'),
      short(key),
      Buffer.from('cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n'),
    ],
    ...[Buffer.from('q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01', 'latin1'), integer(n), integer(3072)],
    Buffer.from('\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN', 'latin1'),
    ...[integer(-1), integer(-1), Buffer.from('K\x00tb\x89T', 'latin1'), word(pixels.length), pixels],
    ...[Buffer.from('tb'), short('filenames'), Buffer.from(']'), Buffer.from('u.')],
  ]);
}

function archiveOf(kind: 'binary' | 'python'): string {
  const inner = kind === 'binary' ? 'cifar-10-batches-bin' : 'cifar-10-batches-py';
  const folder = folderOf(kind === 'binary' ? writeBinary : writePickle, inner);
  writeFileSync(join(folder, 'readme.html'), 'hello');
  const target = fresh();
  const file = join(target, `cifar-10-${kind}.tar.gz`);
  create({ file, cwd: join(folder, '..'), gzip: true, sync: true }, [inner]);
  return target;
}

const layouts: Record<string, () => string> = {
  'binary batches': () => folderOf(writeBinary),
  'binary batches in their folder': () => join(folderOf(writeBinary, 'cifar-10-batches-bin'), '..'),
  pickles: () => folderOf(writePickle),
  'pickles in their folder': () => join(folderOf(writePickle, 'cifar-10-batches-py'), '..'),
  'the binary archive': () => archiveOf('binary'),
  'the Python archive': () => archiveOf('python'),
};
for (const [name, make] of Object.entries(layouts)) {
  test(`${name}: the images and labels of both splits`, () => {
    const folder = make();
    const { images, labels, shape } = loadCifar10({ folder, split: 'test' }, files);
    const bytes = content('test_batch');
    assert.equal(shape, [4, 32, 32, 3]);
    assert.equal(
      labels,
      [0, 1, 2, 3].map((i) => bytes[i * 3073]),
    );
    for (const [i, y, x, c] of [
      [0, 0, 0, 0],
      [1, 0, 1, 2],
      [2, 31, 0, 1],
      [3, 17, 30, 0],
    ] as const) {
      const stored = bytes[i * 3073 + 1 + c * 1024 + y * 32 + x] as number;
      assert.is(images[((i * 32 + y) * 32 + x) * 3 + c], Math.fround(stored / 255));
    }
    // Across the border of two batches.
    const some = loadCifar10({ folder, split: 'train', offset: 3, count: 2 }, files);
    assert.equal(some.labels, [content('data_batch_1')[3 * 3073], content('data_batch_2')[0]]);
  });
}

test('some images, in any order', () => {
  const folder = folderOf(writeBinary);
  const all = loadCifar10({ folder, split: 'train' }, files);
  const some = loadCifar10({ folder, split: 'train', indices: [19, 0, 7] }, files);
  assert.equal(some.labels, [all.labels[19], all.labels[0], all.labels[7]]);
  assert.equal(some.images.subarray(0, 3072), all.images.subarray(19 * 3072));
  assert.equal(some.images.subarray(6144), all.images.subarray(7 * 3072, 8 * 3072));
  refuses(
    () => loadCifar10({ folder, split: 'train', indices: [20] }, files),
    'image 20',
    'the train split holds 20',
  );
  refuses(
    () => loadCifar10({ folder, split: 'test', count: 5 }, files),
    '5 images from 0',
    'the test split holds 4',
  );
  refuses(() => loadCifar10({ folder, split: 'val' as 'test' }, files), "'val'");
});

test('only the batches that are asked for are wanted', () => {
  const folder = fresh();
  writeBinary(folder, 'data_batch_2');
  assert.is(loadCifar10({ folder, split: 'train', offset: 4, count: 4 }, files).labels.length, 4);
  refuses(() => loadCifar10({ folder, split: 'train', offset: 4, count: 5 }, files), 'data_batch_3.bin');
});

test('what is missing is said, with the way out', () => {
  const parts = [
    'test_batch.bin or test_batch',
    'cifar-10-batches-py',
    'cifar-10-python.tar.gz',
    'cmap data cifar10',
  ];
  const folder = fresh();
  refuses(() => loadCifar10({ folder, split: 'test' }), folder, ...parts);
  refuses(
    () => loadCifar10({ folder: join(folder, 'no'), split: 'test' }),
    'there is no such folder',
    ...parts,
  );
});

test('changed, cut and foreign batches are refused', () => {
  const folder = fresh();
  const load = () => loadCifar10({ folder, split: 'test' }, files);
  const path = join(folder, 'test_batch.bin');
  const good = content('test_batch');
  writeFileSync(path, good.subarray(0, 5000));
  refuses(load, 'test_batch.bin', '5000 bytes', '12292');
  writeFileSync(path, Buffer.concat([good, Buffer.of(1)]));
  refuses(load, 'test_batch.bin', 'more than');
  const changed = good.slice();
  changed[2000] = (changed[2000] as number) ^ 1;
  writeFileSync(path, changed);
  refuses(load, 'changed or damaged', 'md5', 'cmap data cifar10');
  const wrong = good.slice();
  wrong[3073] = 10;
  refuses(() => checkLabels(wrong, 'here'), 'here: label 10 of image 1');
  refuses(() => checkLabels(wrong.subarray(1), 'here'), '12291 bytes', '3073');
});

test('damaged pickles are read or refused', () => {
  const bytes = content('test_batch');
  assert.equal(fromPickle(pickleOf(bytes), 'here', 4), bytes);
  refuses(() => fromPickle(pickleOf(bytes), 'here', 5), '4 x 3072', '5 x 3072');
  refuses(() => fromPickle(pickleOf(bytes, { labels: [1, 2, 3] }), 'here', 4), '3 labels', '4 images');
  refuses(() => fromPickle(pickleOf(bytes, { labels: [1, 2, 10, 4] }), 'here', 4), 'label 10 of image 2');
  refuses(() => fromPickle(pickleOf(bytes, { labels: [1, 2, -1, 4] }), 'here', 4), 'label -1 of image 2');
  refuses(() => fromPickle(pickleOf(bytes, { key: 'pixels' }), 'here', 4), "an array 'data'");
  refuses(
    () => fromPickle(Buffer.from('\x80\x02cos\nsystem\nU\x02ls\x85R.', 'latin1'), 'here', 4),
    'here',
    'os.system',
  );
  fuzz(pickleOf(bytes.subarray(0, 3073)), (file) => fromPickle(file, 'fuzz', 1), 260, 150);
});

test('damaged archives are refused', () => {
  const folder = archiveOf('binary');
  const path = join(folder, 'cifar-10-binary.tar.gz');
  const good = readFileSync(path);
  const load = () => loadCifar10({ folder, split: 'test' }, files);
  for (const length of [0, 5, 1000, 40000, good.length - 20]) {
    writeFileSync(path, good.subarray(0, length));
    refuses(load, path);
  }
  for (let at = 0; at < good.length; at += 9973) {
    const bad = Buffer.from(good);
    bad[at] = (bad[at] as number) ^ 0x55;
    writeFileSync(path, bad);
    try {
      load();
    } catch (error) {
      refuses(() => {
        throw error;
      }, path);
    }
  }
  writeFileSync(path, 'not an archive');
  refuses(load, path);
});

test('an archive cannot make us read or write elsewhere', () => {
  const folder = join(fresh(), 'cifar-10-batches-bin');
  mkdirSync(folder);
  symlinkSync('/etc/passwd', join(folder, 'test_batch.bin'));
  const target = fresh();
  const file = join(target, 'cifar-10-binary.tar.gz');
  create({ file, cwd: join(folder, '..'), gzip: true, sync: true }, ['cifar-10-batches-bin']);
  refuses(
    () => loadCifar10({ folder: target, split: 'test' }, files),
    'has no cifar-10-batches-bin/test_batch.bin',
  );
  const big = folderOf(
    (place) => writeFileSync(join(place, 'test_batch.bin'), new Uint8Array(20000)),
    'cifar-10-batches-bin',
  );
  create({ file, cwd: join(big, '..'), gzip: true, sync: true }, ['cifar-10-batches-bin']);
  refuses(() => loadCifar10({ folder: target, split: 'test' }, files), 'has 20000 bytes, at most 12292');
});

test('the folder of CMAP_DATA is the default', () => {
  const root = fresh();
  const before = process.env.CMAP_DATA;
  process.env.CMAP_DATA = root;
  try {
    refuses(() => loadCifar10({ split: 'test' }, files), join(root, 'cifar10'));
    renameSync(folderOf(writeBinary), join(root, 'cifar10'));
    assert.is(loadCifar10({ split: 'test' }, files).labels.length, 4);
  } finally {
    if (before === undefined) delete process.env.CMAP_DATA;
    else process.env.CMAP_DATA = before;
  }
});

test('the real test images', async () => {
  const folder = await unpackedCifar10('test');
  if (!folder) return;
  const { images, labels, shape } = loadCifar10({ folder, split: 'test' });
  assert.equal(shape, [10000, 32, 32, 3]);
  assert.equal(
    labels.slice(0, 5).map((label) => cifar10Classes[label]),
    ['cat', 'ship', 'ship', 'airplane', 'frog'],
  );
  for (let label = 0; label < 10; label++) assert.is(labels.filter((l) => l === label).length, 1000);
  // The mean of each channel of the test set, known to 4 digits.
  const sums = [0, 0, 0];
  for (let i = 0; i < images.length; i++) sums[i % 3]! += images[i] as number;
  assert.equal(
    sums.map((sum) => Number((sum / (images.length / 3)).toFixed(4))),
    [0.4942, 0.4851, 0.4504],
  );
  // The same from pickle and archive.
  const [file] = cifar10Files.batches.test;
  const bytes = readFileSync(join(folder, `${file?.name}.bin`));
  assert.ok(Buffer.from(fromPickle(pickleOf(bytes), 'pickle', 10000)).equals(bytes));
});

test.run();
