/** `cmap data` against a server on this machine, with small stand-ins of the data sets. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { create } from 'tar';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { dataCommand } from '../../src/cli/data.ts';
import { cifar10Files, loadCifar10 } from '../../src/data/cifar10.ts';
import { loadFashionMnist } from '../../src/data/fashion-mnist.ts';
import { refuses, temporaryFolder } from '../formats/fuzz.ts';
import { md5, sha256, standInCifar10, unpackedCifar10 } from '../support-data.ts';

const root = temporaryFolder();
const fresh = () => mkdtempSync(join(root, 'folder-'));
const offered = new Map<string, Buffer>();
const server = createServer((request, response) => {
  const file = offered.get((request.url ?? '').slice(1));
  if (file) response.end(file);
  else response.writeHead(404).end();
});
const offer = (name: string, bytes: Buffer) => {
  offered.set(name, bytes);
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/${name}`;
  return { name, size: bytes.length, md5: md5(bytes), url };
};

const test = suite('cmap data');
let published: Parameters<typeof dataCommand>[0] & object;
const { files, contents } = standInCifar10();

test.before(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const folder = fresh();
  const inner = join(folder, 'cifar-10-batches-bin');
  mkdirSync(inner);
  for (const [name, bytes] of contents) writeFileSync(join(inner, `${name}.bin`), bytes);
  const archive = join(folder, 'archive');
  create({ file: archive, cwd: folder, gzip: true, sync: true }, ['cifar-10-batches-bin']);
  const packed = (name: string, ...idx: number[]) => {
    const content = Uint8Array.from([0, 0, 8, ...idx]);
    return { ...offer(name, gzipSync(content)), sha256: sha256(content) };
  };
  const pair = (name: string) =>
    [
      packed(
        `${name}-images.gz`,
        ...[3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28, ...new Uint8Array(784).fill(51)],
      ),
      packed(`${name}-labels.gz`, 1, 0, 0, 0, 1, 6),
    ] as const;
  published = {
    cifar10: { ...files, archive: offer('cifar-10-binary.tar.gz', readFileSync(archive)) },
    fashionMnist: { train: pair('train'), test: pair('t10k') },
  };
});
test.after(() => {
  server.closeAllConnections();
  server.close();
});

/** What the command prints on stdout. */
async function run(args: string[], sets = published): Promise<string> {
  let printed = '';
  const write = process.stdout.write;
  process.stdout.write = ((text: string) => {
    printed += text;
    return true;
  }) as typeof process.stdout.write;
  try {
    await dataCommand(sets)
      .exitOverride()
      .parseAsync([...args, '--quiet'], { from: 'user' });
  } finally {
    process.stdout.write = write;
  }
  return printed;
}

async function fails(args: string[], ...parts: string[]): Promise<void> {
  const error = await run(args).then(
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

const batches = [...contents.keys()].map((name) => `${name}.bin`).sort();

test('CIFAR-10 is downloaded, unpacked, checked and found; a second time nothing is done', async () => {
  const data = fresh();
  const before = process.env.CMAP_DATA;
  process.env.CMAP_DATA = data;
  try {
    const printed = await run(['cifar10']);
    const folder = join(data, 'cifar10');
    assert.match(printed, /CIFAR-10: downloaded; 6 files, 0\.1 MB, as published/);
    assert.ok(printed.includes(folder) && printed.includes("loadCifar10({ split: 'test' })"), printed);
    assert.equal(readdirSync(folder).sort(), batches);
    assert.is(loadCifar10({ split: 'train' }, files).labels.length, 20);
    assert.match(await run(['cifar10']), /was there already/);
  } finally {
    if (before === undefined) delete process.env.CMAP_DATA;
    else process.env.CMAP_DATA = before;
  }
});

test('a damaged batch is replaced', async () => {
  const folder = join(fresh(), 'new');
  await run(['cifar10', '--to', folder]);
  writeFileSync(join(folder, 'data_batch_3.bin'), 'damaged');
  refuses(() => loadCifar10({ folder, split: 'train' }, files), 'data_batch_3.bin', 'cmap data cifar10');
  assert.match(await run(['cifar10', '--to', folder]), /downloaded/);
  assert.equal(readdirSync(folder).sort(), batches);
  assert.is(loadCifar10({ folder, split: 'train' }, files).labels.length, 20);
});

test('CIFAR-10 from a folder, without network', async () => {
  const from = fresh();
  writeFileSync(join(from, 'cifar-10-binary.tar.gz'), offered.get('cifar-10-binary.tar.gz') as Buffer);
  const to = join(fresh(), 'a', 'b');
  const printed = await run(['cifar10', '--from', from, '--to', to], {
    ...published,
    cifar10: { ...files, archive: cifar10Files.archive },
  });
  assert.match(printed, /copied from/);
  assert.ok(printed.includes(`folder: ${JSON.stringify(to)}`), printed);
  assert.equal(readdirSync(to).sort(), batches);
  // A target that has the archive alone.
  assert.match(await run(['cifar10', '--to', from]), /copied/);
  assert.equal(readdirSync(from).sort(), ['cifar-10-binary.tar.gz', ...batches]);
  await fails(['cifar10', '--from', root, '--to', to], root, 'CIFAR-10 is not there');
});

test('Fashion-MNIST from network and folder', async () => {
  const to = fresh();
  assert.match(await run(['fashion-mnist', '--to', to]), /Fashion-MNIST: downloaded; 4 files/);
  assert.equal(loadFashionMnist({ folder: to }, published.fashionMnist).labels, [6]);
  assert.match(await run(['fashion-mnist', '--to', to]), /was there already/);
  // Only what is missing is asked for.
  rmSync(join(to, 't10k-labels.gz'));
  offered.delete('train-images.gz');
  assert.match(await run(['fashion-mnist', '--to', to]), /downloaded/);
  const other = fresh();
  assert.match(await run(['fashion-mnist', '--from', to, '--to', other]), /copied from/);
  assert.equal(readdirSync(other).sort(), readdirSync(to).sort());
});

test('what goes wrong is one line with the way out', async () => {
  await fails(['imagenet'], "'imagenet' is not known", 'cifar10 and fashion-mnist');
  offered.delete('cifar-10-binary.tar.gz');
  const to = fresh();
  await fails(['cifar10', '--to', to], 'cifar-10-binary.tar.gz', '404', 'cmap data cifar10 --from FOLDER');
  assert.equal(readdirSync(to), []);
});

test('the real test batch from a folder', async () => {
  const from = await unpackedCifar10('test');
  if (!from) return;
  const to = fresh();
  const { test } = cifar10Files.batches;
  const real = { ...published, cifar10: { ...cifar10Files, batches: { train: [], test } } };
  assert.match(await run(['cifar10', '--from', from, '--to', to], real), /1 file, 30\.7 MB, as published/);
  assert.equal(loadCifar10({ folder: to, split: 'test', indices: [0, 9999] }).labels, [3, 7]);
});

test.run();
