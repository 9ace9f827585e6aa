/**
 * The command line as a user meets it: what goes wrong ends in one line on stderr, a non-zero exit and nothing half
 * written; what goes right writes what the README says.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { loadFashionMnist } from '../../src/data/fashion-mnist.ts';
import { decodePng, writePng } from '../../src/formats/png.ts';
import { root } from '../support.ts';
import { commandIn } from './command.ts';

const test = suite('cli');
let folder = '';
test.before(() => {
  folder = mkdtempSync(join(tmpdir(), 'cmap-cli-'));
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

const { cmap, refused } = commandIn(() => folder);

function image(index = 0): string {
  const { images } = loadFashionMnist({ count: 1, offset: index });
  const path = join(folder, `image-${index}.png`);
  writePng(path, {
    width: 28,
    height: 28,
    channels: 1,
    data: Uint8Array.from(images, (v) => Math.round(255 * v)),
  });
  return path;
}

test('bad flags', () => {
  refused(['purfy'], /unknown command 'purfy'/);
  refused(['purify'], /no images: name PNG files/);
  refused(['demo', '--count', 'three'], /"three" is not an integer/);
  refused(['demo', '--count', '0'], /--count must be at least 1, got 0/);
  refused(['demo', '--count', '5000'], /5000 images from 0 on are not there; the package holds 1000/);
  refused(
    ['demo', '--eps', '8', '--count', '1'],
    /eps must be in \[0, 1\] pixel units, got 8; did you mean 8\/255\?/,
  );
  refused(['demo', '--k', '0'], /k must be an integer of at least 2 .*, got 0/);
  refused(['purify', image(), '--k', '0'], /k must be an integer of at least 2 .*, got 0/);
  refused(['purify', image(), '--iterations', '1.5'], /"1.5" is not an integer/);
});

test('an adapter that does not exist', () => {
  refused(['doctor', '--adapter', 'voodoo2'], /voodoo2/);
  refused(['demo', '--count', '1'], /voodoo2/, root, { CMAP_ADAPTER: 'voodoo2' });
});

test('bad images', () => {
  refused(['purify', join(folder, 'nothing.png')], /nothing\.png/);
  const text = join(folder, 'text.png');
  writeFileSync(text, 'not a picture');
  refused(['purify', text], /text\.png: not a PNG/);
  const cut = join(folder, 'cut.png');
  writeFileSync(cut, readFileSync(image()).subarray(0, 80));
  refused(['classify', cut], /cut\.png: truncated/);
  const large = join(folder, 'large.png');
  writePng(large, { width: 32, height: 30, channels: 1, data: new Uint8Array(960) });
  refused(['classify', '--no-defence', large], /large\.png: is 32×30, the model takes 28×28/);
  assert.not.ok(existsSync(join(folder, 'out')), 'nothing was written');
});

test('damaged weights', () => {
  const copy = join(folder, 'copy');
  mkdirSync(copy);
  for (const name of ['dist', 'weights', 'data', 'package.json']) {
    cpSync(join(root, name), join(copy, name), {
      recursive: true,
      filter: (path) => !path.includes(join('dist', 'test')),
    });
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  const manifest = JSON.parse(readFileSync(join(copy, 'weights', 'manifest.json'), 'utf8'));
  const weights = join(copy, 'weights', manifest['fashion-mnist-wrn'].file);
  const whole = readFileSync(weights);
  truncateSync(weights, whole.length - 100);
  refused(
    ['classify', '--no-defence', image()],
    /truncated: has \d+ bytes, the manifest says \d+; restore it/,
    copy,
  );
  const changed = Buffer.from(whole);
  changed[changed.length - 1]! ^= 1;
  writeFileSync(weights, changed);
  refused(['classify', '--no-defence', image()], /changed or damaged/, copy);
  rmSync(weights);
  refused(['demo', '--count', '1'], /no such file/, copy);
});

test('an output folder that cannot be made', () => {
  const file = join(folder, 'file');
  writeFileSync(file, '');
  refused(['demo', '--count', '1', '--out', join(file, 'below')], /not a folder/);
});

test('purify writes a picture and a record; classify prints a line an image', () => {
  const paths = [image(0), image(1)];
  const args = ['--k', '2', '--iterations', '3', '--quiet'];
  const out = join(folder, 'purified');
  const run = cmap(['purify', ...paths, ...args, '--out', out]);
  assert.is(run.status, 0, run.lines.join('\n'));
  assert.equal(readdirSync(out).sort(), [
    'image-0.json',
    'image-0.purified.png',
    'image-1.json',
    'image-1.purified.png',
  ]);
  const picture = decodePng(readFileSync(join(out, 'image-0.purified.png')), 'purified');
  assert.equal([picture.width, picture.height, picture.channels], [28, 28, 1]);
  const record = JSON.parse(readFileSync(join(out, 'image-0.json'), 'utf8'));
  assert.is(
    record.votes.reduce((a: number, b: number) => a + b, 0),
    2,
  );
  assert.is(record.trace.length, 3);

  const classified = cmap(['classify', ...paths, ...args]);
  assert.is(classified.status, 0, classified.lines.join('\n'));
  assert.is(classified.stdout.trim().split('\n').length, 2);
  assert.match(classified.stdout, /image-0\.png: undefended Ankle boot; defended .+ \(.+ \d/);
});

test('the demo writes its summary, grid and trace', () => {
  const out = join(folder, 'demo');
  const run = cmap([
    'demo',
    '--count',
    '2',
    '--k',
    '2',
    '--iterations',
    '2',
    '--steps',
    '2',
    '--quiet',
    '--out',
    out,
  ]);
  assert.is(run.status, 0, run.lines.join('\n'));
  const summary = JSON.parse(readFileSync(join(out, 'summary.json'), 'utf8'));
  for (const field of ['cleanAccuracy', 'attackedAccuracy', 'purifiedAccuracy', 'defendedCleanAccuracy']) {
    assert.ok(summary[field] >= 0 && summary[field] <= 1, field);
  }
  assert.is(summary.count, 2);
  assert.ok(summary.eps > 0 && summary.seconds > 0 && summary.adapter.length > 0);
  const grid = decodePng(readFileSync(join(out, 'grid.png')), 'grid');
  assert.ok(grid.width > 300 && grid.height > 200);
  assert.match(readFileSync(join(out, 'trace.svg'), 'utf8'), /^<svg/);
  assert.match(run.stdout, /clean, no defence .*%/);
});

test('doctor names the adapter and passes its self-test', () => {
  const run = cmap(['doctor', '--json']);
  assert.is(run.status, 0, run.lines.join('\n'));
  const report = JSON.parse(run.stdout);
  assert.ok(report.adapters.length > 0 && report.used.name.length > 0);
  assert.is(report.selfTest.ok, true);
  assert.ok(report.selfTest.gflops > 0);
});

test('help goes to stdout and exits with 0', () => {
  const run = cmap(['demo', '--help']);
  assert.is(run.status, 0);
  assert.match(run.stdout, /--count <n>/);
});

test.run();
